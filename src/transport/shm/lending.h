#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>

#include "gearshift/base/bytes.h"
#include "gearshift/base/result.h"
#include "gearshift/transport/shared_region.h"
#include "transport/shm/frame.h"

namespace gearshift::transport::shm {

/// The sender's list of what it lends over one link. Not thread-safe.
class LentRegions {
 public:
  /// Smaller bodies are not lent.
  explicit LentRegions(std::size_t least_bytes) : least_bytes_(least_bytes) {}

  std::uint64_t add(base::ConstBytes memory);
  /// The peer has mapped it; from now on `find` knows it.
  void confirm(std::uint64_t id);
  void remove(std::uint64_t id) { regions_.erase(id); }
  /// Where a body lies, if it may be lent. Without a ticket.
  std::optional<LentBody> find(base::ConstBytes body) const;

 private:
  struct Entry {
    base::ConstBytes memory;
    bool mapped = false;
  };
  const std::size_t least_bytes_;
  std::map<std::uint64_t, Entry> regions_;
  std::uint64_t last_ = 0;
};

/// The receiver's list of the regions that its peer lends. Not thread-safe.
class BorrowedRegions {
 public:
  /// Whether it is of use: not when the peer has taken it back before it came. An error: no correct
  /// peer does this.
  base::Result<bool> add(std::uint64_t id, std::shared_ptr<SharedRegion> region);
  void forget(std::uint64_t id);

  struct Found {
    std::shared_ptr<SharedRegion> region;  ///< keeps the memory mapped
    base::ConstBytes body;
  };
  /// kProtocol when there is no such place.
  base::Result<Found> find(const LentBody& place, std::uint64_t bytes) const;

 private:
  static constexpr std::size_t kMost = 4096;

  std::map<std::uint64_t, std::shared_ptr<SharedRegion>> regions_;
  std::set<std::uint64_t> forgotten_early_;  ///< before they came: they take another way
};

}  // namespace gearshift::transport::shm
