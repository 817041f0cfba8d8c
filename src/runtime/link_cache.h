#pragma once

#include <optional>
#include <string>
#include <vector>

#include "gearshift/group/topology.h"

namespace gearshift::runtime {

/// Measured speeds of links, kept between jobs in $XDG_CACHE_HOME/gearshift (or
/// ~/.cache/gearshift), one small text file per set of processes. What cannot be read, is damaged,
/// belongs to others, or is older than a day is not there; what cannot be written is not kept: a
/// cache must not end a job. Storing removes what is too old. Thread-safety: all functions; files
/// are replaced as a whole.
class LinkCache {
 public:
  /// `processes` says, rank by rank, where each runs (see `process_identity`), and over which
  /// transports they talk.
  explicit LinkCache(const std::vector<std::string>& processes);

  std::optional<group::LinkSpeeds> load() const;
  void store(const group::LinkSpeeds& speeds) const;
  /// Empty when there is no place for caches.
  const std::string& path() const { return path_; }

 private:
  std::string key_;
  std::string path_;
};

/// Where this process runs, for `LinkCache`: boot of the machine, network namespace, address.
std::string process_identity(const std::string& listen_host,
                             const std::vector<std::string>& transports);

}  // namespace gearshift::runtime
