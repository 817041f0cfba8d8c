#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "gearshift/base/channel.h"
#include "gearshift/base/ids.h"
#include "gearshift/base/result.h"
#include "gearshift/group/group.h"
#include "gearshift/transport/connection.h"

namespace gearshift::collectives {

/// Messages that are expected from several ranks at once, told in the order in which they come.
///
/// Each takes the place of one `recv` (see collectives.h) from its rank, and may not run beside
/// another from that rank. Used by one task, but for `wake`.
class Arrivals {
 public:
  /// The group outlives this.
  explicit Arrivals(group::Group& group);
  /// What is expected then is withdrawn, and what comes of it is lost.
  ~Arrivals();
  Arrivals(const Arrivals&) = delete;
  Arrivals& operator=(const Arrivals&) = delete;

  /// The next message from a rank, of less than 4 MiB, from which none is expected.
  void expect(base::Rank from, std::size_t bytes);
  /// Waits until an expected message has come, or has become impossible: whose. None at the
  /// deadline, or when somebody wakes it.
  std::optional<base::Rank> next(base::TimePoint deadline);
  /// The message of a rank that `next` told, or what became of it. Once.
  base::Result<std::vector<std::byte>> take(base::Rank from);
  /// Ends one `next`, this one or the following. From any task.
  void wake();

 private:
  struct Expected {
    std::uint32_t number = 0;
    std::vector<std::byte> message{};
    transport::Request request{};
  };
  Expected& at(base::Rank rank) { return expected_[static_cast<std::size_t>(rank.value)]; }

  group::Group& group_;
  std::vector<Expected> expected_;  ///< by rank
  /// Shared with what transports still have to tell.
  const std::shared_ptr<base::Channel<std::optional<base::Rank>>> news_;
};

}  // namespace gearshift::collectives
