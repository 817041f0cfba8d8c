#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "gearshift/base/bytes.h"
#include "gearshift/base/result.h"
#include "gearshift/base/scheduler.h"

namespace gearshift::transport {

/// Where N processes of one host meet over shared memory, without messages: each participant
/// publishes how far it has come, and waits for the others.
///
/// Waiting spins for a moment, then gives the core away (unless asked to sleep at once, or other
/// programs keep it for long), then sleeps on a futex in short slices, so it is quick with a core
/// for each process, fair with more processes than cores, and never longer than the deadline.
/// Everything that a participant wrote to shared memory before `arrive` is visible to whoever has
/// waited for that value.
///
/// Values read from shared memory are only compared, never used as an address, a size or an index.
/// Thread-safety: one task per participant calls `arrive` and `wait_*`; `abort` and `aborted` from
/// any task, of any participant.
class HostSync {
 public:
  static constexpr int kMaxParticipants = 1024;

  /// How to wait for what takes longer than a moment.
  enum class Patience : unsigned char {
    kYield,  ///< look again and again for some milliseconds: nothing else to do here
    kSleep   ///< sleep at once: another thread of this process wants the core
  };

  static std::size_t bytes_needed(int participants);

  /// Joins as `self` of `participants`. `memory` is at the same place of a SharedRegion for all,
  /// zeroed before the first joins, 64-byte-aligned, and outlives this object. kInvalidArgument
  /// when it is too small or misaligned, or `self` is not in range.
  static base::Result<std::unique_ptr<HostSync>> join(const base::Scheduler& scheduler,
                                                      base::Bytes memory, int participants,
                                                      int self);

  int participants() const { return participants_; }
  int self() const { return self_; }

  /// Publishes that this participant has reached `value`. Values must not decrease.
  void arrive(std::uint64_t value);
  /// What `participant` has reached, at least.
  std::uint64_t reached(int participant) const;

  /// Waits until a participant, or each of them, has reached `value`. kTimeout names the first one
  /// that is missing as the culprit; kAborted names who aborted, if that was said.
  base::Status wait_for(int participant, std::uint64_t value, base::TimePoint deadline,
                        Patience patience = Patience::kYield);
  base::Status wait_for_all(std::uint64_t value, base::TimePoint deadline);

  /// A quick look: spins for a moment, gives the core away a few times, and never sleeps or fails.
  /// Whether all have reached `value`.
  bool poll_all(std::uint64_t value) const;

  /// The two together, with this participant's next value. All must use it alike.
  base::Status barrier(base::TimePoint deadline);

  /// Fails all waits of all participants, now and later. The first call counts. `culprit` is the
  /// participant that caused it, or -1.
  void abort(int culprit = -1);
  bool aborted() const;

 private:
  struct Line;
  struct Header;

  HostSync(const base::Scheduler& scheduler, base::Bytes memory, int participants, int self)
      : scheduler_(scheduler), memory_(memory), participants_(participants), self_(self) {}
  Header& header() const;
  Line& line(int participant) const;
  base::Status abort_status() const;
  bool sleep(Line& other, std::uint64_t value, base::TimePoint deadline) const;

  const base::Scheduler& scheduler_;
  const base::Bytes memory_;
  const int participants_;
  const int self_;
};

}  // namespace gearshift::transport
