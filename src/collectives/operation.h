#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "gearshift/base/dtype.h"
#include "gearshift/base/ids.h"
#include "gearshift/base/result.h"
#include "gearshift/base/scheduler.h"
#include "gearshift/collectives/collectives.h"
#include "gearshift/group/group.h"
#include "gearshift/transport/connection.h"

namespace gearshift::collectives {

/// What an operation is, and what it does to the data: what all ranks must mean alike. It is part
/// of the tags of its messages, so that ranks that mean different things wait for each other, and
/// say in what, but never take each other's data.
struct Meaning {
  enum class Kind : std::uint8_t {
    kOther,
    kAllReduce,
    kReduceScatter,
    kAllGather,
    kBroadcast,
    kAllToAll,
    kBarrier,
    kAllToAllV,
    kGather,
    kScatter
  };

  Kind kind = Kind::kOther;
  std::uint8_t detail = 0;
  std::string text{};  ///< of the detail, for progress reports
  /// Of messages (see transport::Tag::check): they must not fit by chance.
  std::uint32_t check = 0;

  static Meaning reduction(Kind kind, base::DType dtype, base::ReduceOp op);
  static Meaning rooted(Kind kind, base::Rank root);
  /// The same for `bytes` in all, cut up as `algorithm` does.
  Meaning of(std::size_t bytes, Algorithm algorithm) &&;
};

/// One collective under way on this rank: numbers its messages, waits with a deadline that counts
/// from the last progress, and says in errors and progress reports what was going on.
///
/// Construction takes the group's next sequence number, so every rank constructs one for every
/// call, even if nothing is to be sent. Used by one task.
class Operation {
 public:
  Operation(group::Group& group, std::string_view name, std::string_view algorithm,
            const Options& options, const Meaning& meaning = {});
  /// Message `number` between two ranks, which only they count.
  static Operation point_to_point(group::Group& group, std::string_view name,
                                  const Options& options, std::uint32_t number);

  group::Group& group() const { return group_; }
  base::Scheduler& scheduler() const { return scheduler_; }
  int size() const { return group_.size(); }
  int rank() const { return group_.rank().value; }

  /// Makes tags 0 … messages-1 available. A sequence number has 65,536 parts; operations with more
  /// messages per link take several. `messages` must be equal on all ranks.
  void reserve(std::size_t messages);
  /// The tag of message `index`. Both directions of a link may use the same index.
  transport::Tag tag(std::size_t index) const;

  transport::Connection& link(int peer) const { return group_.link(base::Rank(peer)); }

  /// Where an operation stands, for errors; steps count from 0.
  struct Position {
    std::size_t step = 0;
    std::size_t steps = 1;
  };
  base::Status await_recv(const transport::Request& request, int peer, Position at) const;
  base::Status await_send(const transport::Request& request, int peer, Position at) const;
  /// Ends a request whose outcome no longer matters: its memory is free afterwards.
  void withdraw(const transport::Request& request) const;

 private:
  /// Sequence numbers: the bits `mask` count, from `first` on, and the others are `space`.
  struct Numbering {
    std::uint32_t first = 0;
    std::uint32_t mask = 0;
    std::uint32_t space = 0;
    std::uint32_t check = 0;
  };
  Operation(group::Group& group, std::string_view name, std::string_view algorithm,
            const Options& options, Numbering numbering, std::string_view detail);
  base::Status await(const transport::Request& request, std::string_view what, int peer,
                     Position at) const;

  group::Group& group_;
  base::Scheduler& scheduler_;  ///< the group's, at hand: it is asked for with each message
  const std::string_view name_;
  const std::string_view algorithm_;
  const base::Duration timeout_;
  const Numbering numbering_;
  const std::string detail_;
  group::ProgressScope progress_;
  mutable std::optional<base::TimePoint> grace_{};  ///< until then what is under way may end
};

}  // namespace gearshift::collectives
