#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "gearshift/base/result.h"
#include "gearshift/collectives/collectives.h"
#include "gearshift/group/group.h"
#include "gearshift/group/window.h"

namespace gearshift::collectives {

/// The group's window, opened at first need; null where its ranks share no memory. Collective.
/// Whoever opens it waits for the others within the operation's timeout.
base::Result<group::Window*> window_of(group::Group& group, const Options& options = {});

/// One collective over a window: its rounds, and what is told of it when it takes long.
///
/// An operation of a microsecond must not spend half of it on saying so: progress is reported once
/// it has waited for longer than a moment, or at once when the caller gave it a name.
class WindowOperation {
 public:
  /// `name` must live for ever.
  WindowOperation(group::Group& group, group::Window& window, const char* name,
                  const Options& options);
  ~WindowOperation();
  WindowOperation(const WindowOperation&) = delete;
  WindowOperation& operator=(const WindowOperation&) = delete;

  group::Window& window() const { return window_; }
  int size() const { return window_.size(); }
  int rank() const { return window_.rank(); }

  /// Fails when a link of the group is broken.
  base::Status begin() const;
  /// Announces this rank's next round, and returns its number.
  std::uint64_t arrive();
  /// Waits until all ranks have announced it.
  base::Status await(std::uint64_t round);
  base::Status meet() { return await(arrive()); }

  /// What `rank` said, which cannot be (kProtocol), or does not fit to what this one does
  /// (kMismatch).
  base::Error mismatch(int rank, const std::string& what) const;
  base::Error disagreement(int rank, const std::string& what) const;

 private:
  std::string title() const;
  void report();

  group::Group& group_;
  group::Window& window_;
  const char* const name_;
  const Options& options_;
  std::optional<group::ProgressScope> progress_;
};

}  // namespace gearshift::collectives
