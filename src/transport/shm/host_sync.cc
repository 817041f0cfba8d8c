#include "gearshift/transport/host_sync.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <string>

#include "transport/shm/backoff.h"

namespace gearshift::transport {
namespace {

using base::Error;
using base::ErrorCode;

/// How long a waiter gives its core away before it sleeps. Longer than in the message path: inside
/// a collective the others are at work on the same thing, and are soon here.
constexpr base::Duration kBarrierYieldsFor = std::chrono::milliseconds(2);
/// A sleeper looks up this often, so that a participant that died between writing its value and
/// waking the others costs them no more than this.
constexpr base::Duration kSlice = std::chrono::milliseconds(1);

constexpr std::size_t kLineBytes = 64;

/// Turns of a quick look.
struct Turns {
  int spins, yields;
};
constexpr Turns kRoomy = {128, 64};
/// With more participants than processors the one that is waited for often needs this very core,
/// and what others spin away adds up: a barrier of eight on two cores takes half as long like this.
constexpr Turns kCrowded = {8, 256};

bool crowded(int participants) {
  static const long processors = ::sysconf(_SC_NPROCESSORS_ONLN);
  return participants > processors;
}

void futex_wait(std::atomic<std::uint32_t>& word, std::uint32_t expected, base::Duration limit) {
  const auto ns = limit.count();
  timespec timeout{static_cast<std::time_t>(ns / 1'000'000'000),
                   static_cast<long>(ns % 1'000'000'000)};
  ::syscall(SYS_futex, &word, FUTEX_WAIT, expected, &timeout, nullptr, 0);
}

void futex_wake_all(std::atomic<std::uint32_t>& word) {
  ::syscall(SYS_futex, &word, FUTEX_WAKE, INT32_MAX, nullptr, nullptr, 0);
}

}  // namespace

/// One participant's cache line. Only its owner writes `reached`; everybody the rest.
struct alignas(kLineBytes) HostSync::Line {
  std::atomic<std::uint64_t> reached;
  std::atomic<std::uint32_t> bell;      ///< the futex: changes when sleepers must look again
  std::atomic<std::uint32_t> sleepers;  ///< only saves the owner needless system calls
};

struct alignas(kLineBytes) HostSync::Header {
  std::atomic<std::uint32_t> aborted;  ///< 0, or culprit + 2
};

std::size_t HostSync::bytes_needed(int participants) {
  const auto n = static_cast<std::size_t>(std::max(participants, 0));
  return sizeof(Header) + n * sizeof(Line);
}

base::Result<std::unique_ptr<HostSync>> HostSync::join(const base::Scheduler& scheduler,
                                                       base::Bytes memory, int participants,
                                                       int self) {
  if (participants < 1 || participants > kMaxParticipants || self < 0 || self >= participants) {
    return Error(ErrorCode::kInvalidArgument, "participant " + std::to_string(self) + " of " +
                                                  std::to_string(participants) + " is impossible");
  }
  if (memory.size() < bytes_needed(participants) ||
      reinterpret_cast<std::uintptr_t>(memory.data()) % kLineBytes != 0) {
    return Error(ErrorCode::kInvalidArgument,
                 "host synchronisation of " + std::to_string(participants) + " needs " +
                     std::to_string(bytes_needed(participants)) + " aligned bytes, not " +
                     std::to_string(memory.size()));
  }
  if (crowded(participants)) shm::Contention::here().crowd();
  return std::unique_ptr<HostSync>(new HostSync(scheduler, memory, participants, self));
}

HostSync::Header& HostSync::header() const { return *reinterpret_cast<Header*>(memory_.data()); }

HostSync::Line& HostSync::line(int participant) const {
  return reinterpret_cast<Line*>(memory_.data() + sizeof(Header))[participant];
}

void HostSync::arrive(std::uint64_t value) {
  Line& own = line(self_);
  // Sequentially consistent, as is the sleeper's side: either it sees the value, or we see it.
  own.reached.store(value);
  if (own.sleepers.load() == 0) return;
  own.bell.fetch_add(1);
  futex_wake_all(own.bell);
}

std::uint64_t HostSync::reached(int participant) const {
  return line(participant).reached.load(std::memory_order_acquire);
}

base::Status HostSync::wait_for(int participant, std::uint64_t value, base::TimePoint deadline,
                                Patience patience) {
  Line& other = line(participant);
  shm::Backoff backoff(scheduler_,
                       patience == Patience::kYield ? kBarrierYieldsFor : base::Duration::zero());
  while (other.reached.load(std::memory_order_acquire) < value) {
    if (aborted()) return abort_status();
    if (backoff.pause()) {
      if (backoff.spinning() || scheduler_.now() < deadline) continue;
    } else if (sleep(other, value, deadline)) {
      continue;
    }
    return Error(ErrorCode::kTimeout,
                 "participant " + std::to_string(participant) + " reached step " +
                     std::to_string(reached(participant)) + " of the shared operation, not " +
                     std::to_string(value),
                 participant);
  }
  return {};
}

bool HostSync::sleep(Line& other, std::uint64_t value, base::TimePoint deadline) const {
  const base::TimePoint now = scheduler_.now();
  if (now >= deadline) return false;
  other.sleepers.fetch_add(1);
  const std::uint32_t bell = other.bell.load();
  if (other.reached.load() < value && !aborted()) {
    futex_wait(other.bell, bell, std::min(kSlice, deadline - now));
  }
  other.sleepers.fetch_sub(1);
  return true;
}

base::Status HostSync::wait_for_all(std::uint64_t value, base::TimePoint deadline) {
  for (int i = 0; i < participants_; ++i) {
    if (i != self_) GEARSHIFT_RETURN_IF_ERROR(wait_for(i, value, deadline));
  }
  return aborted() ? abort_status() : base::Status();
}

bool HostSync::poll_all(std::uint64_t value) const {
  const Turns most = crowded(participants_) ? kCrowded : kRoomy;
  shm::Contention& contention = shm::Contention::here();
  base::TimePoint now;
  int turns = 0;
  for (int i = 0; i < participants_; ++i) {
    const std::atomic<std::uint64_t>& theirs = line(i).reached;
    while (theirs.load(std::memory_order_acquire) < value) {
      if (++turns < most.spins) {
        shm::cpu_relax();
        continue;
      }
      if (turns == most.spins) now = scheduler_.now();
      if (turns >= most.spins + most.yields || !contention.yield(scheduler_, now)) return false;
    }
  }
  return true;
}

base::Status HostSync::barrier(base::TimePoint deadline) {
  const std::uint64_t next = reached(self_) + 1;
  arrive(next);
  return wait_for_all(next, deadline);
}

void HostSync::abort(int culprit) {
  std::uint32_t expected = 0;
  const int known = culprit >= 0 && culprit < participants_ ? culprit : -1;
  header().aborted.compare_exchange_strong(expected, static_cast<std::uint32_t>(known + 2));
  for (int i = 0; i < participants_; ++i) {
    line(i).bell.fetch_add(1);
    futex_wake_all(line(i).bell);
  }
}

bool HostSync::aborted() const { return header().aborted.load(std::memory_order_relaxed) != 0; }

base::Status HostSync::abort_status() const {
  const std::int64_t culprit = std::int64_t{header().aborted.load()} - 2;
  if (culprit < 0 || culprit >= participants_) {
    return Error(ErrorCode::kAborted, "the shared operation was aborted");
  }
  return Error(ErrorCode::kAborted,
               "the shared operation was aborted because of participant " + std::to_string(culprit),
               static_cast<int>(culprit));
}

}  // namespace gearshift::transport
