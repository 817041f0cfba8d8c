#include "collectives/probe.h"

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "collectives/all_reduce/recursive_doubling.h"
#include "gearshift/kernels/reduce.h"

namespace gearshift::collectives {
namespace {

constexpr int kPings = 9;
constexpr int kMaxRounds = 32;
constexpr std::uint64_t kPingBytes = 8;
constexpr std::uint64_t kFirstBytes = 16 * 1024;
constexpr std::uint64_t kMostBytes = 16 * 1024 * 1024;
constexpr std::uint64_t kGrowth = 4;
/// A shorter transfer says little: a token bucket lets through some milliseconds' worth at once,
/// and a processor with other work to do is away for as long.
constexpr base::Duration kLeastTransfer = std::chrono::milliseconds(10);
/// A longer one says no more.
constexpr base::Duration kLongTransfer = std::chrono::milliseconds(40);
constexpr int kMostAgain = 4;
constexpr std::size_t kReduceBytes = 1024 * 1024;
/// In an order: only make room for so many bytes, and answer.
constexpr std::uint64_t kMakeRoom = std::uint64_t{1} << 63;
/// All messages of a pair; the same on all ranks.
constexpr std::size_t kMaxMessages = 1024;

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// The measurement of one link. One side, the driver, says what comes next, and measures: an order
/// of 8 bytes with the size, then so many bytes in both directions at once; size 0 ends it. Both
/// make room before: the first touch of a page takes longer than what a fast link brings for it.
class Duel {
 public:
  Duel(const Operation& operation, int peer) : operation_(operation), peer_(peer) {}

  /// `share`: the time that it should take.
  base::Result<group::LinkSpeed> drive(base::Duration share) {
    const base::Scheduler& clock = operation_.group().scheduler();
    group::LinkSpeed speed{0, 0};
    std::vector<double> pings;
    GEARSHIFT_RETURN_IF_ERROR(timed_exchange(kPingBytes));  // waits for the other side
    const base::TimePoint deadline = clock.now() + share;
    while (pings.size() < kPings && (pings.empty() || clock.now() < deadline)) {
      GEARSHIFT_ASSIGN_OR_RETURN(const double seconds, timed_exchange(kPingBytes));
      pings.push_back(seconds);
    }
    speed.latency = median(pings) / 2;  // the order, and the answer
    // The least: what busy queues and processors add to a ping, they need not add to a transfer.
    const double least = *std::min_element(pings.begin(), pings.end());
    GEARSHIFT_RETURN_IF_ERROR(measure_bandwidth(deadline, least, speed));
    GEARSHIFT_RETURN_IF_ERROR(order(0));
    return speed;
  }

  base::Status follow() {
    while (true) {
      std::uint64_t bytes = 0;
      const std::size_t message = next_++;
      GEARSHIFT_RETURN_IF_ERROR(receive(message, base::writable_bytes_of(bytes)));
      if (bytes == 0) return {};
      const bool only_room = (bytes & kMakeRoom) != 0;
      bytes &= ~kMakeRoom;
      if (bytes > kMostBytes) {
        return base::Error(base::ErrorCode::kProtocol, "a measurement of too many bytes", peer_);
      }
      GEARSHIFT_RETURN_IF_ERROR(only_room ? answer(bytes) : exchange(bytes));
    }
  }

 private:
  /// Sizes grow until one takes long enough that what is sent at once from buffers, or beyond the
  /// rate at first, does not count much; the last size counts. It is sent again while there is
  /// time, and the fastest counts: whatever else the machines do makes it slower.
  base::Status measure_bandwidth(base::TimePoint deadline, double ping, group::LinkSpeed& speed) {
    const base::Scheduler& clock = operation_.group().scheduler();
    const auto late = [&](double next) {
      return clock.now() + base::from_seconds(next) > deadline;
    };
    for (std::uint64_t bytes = kFirstBytes; bytes <= kMostBytes; bytes *= kGrowth) {
      GEARSHIFT_ASSIGN_OR_RETURN(double seconds, timed_exchange(bytes));
      const base::Duration took = base::from_seconds(seconds);
      const bool last = took >= kLongTransfer || bytes == kMostBytes ||
                        (took >= kLeastTransfer && late(kGrowth * seconds));
      for (int again = 0; last && again < kMostAgain && !late(seconds); ++again) {
        GEARSHIFT_ASSIGN_OR_RETURN(const double other, timed_exchange(bytes));
        seconds = std::min(seconds, other);
      }
      const double transfer = std::max(seconds - ping, 0.01 * seconds);
      speed.seconds_per_byte = transfer / static_cast<double>(bytes);
      if (last) break;
    }
    return {};
  }

  base::Result<double> timed_exchange(std::uint64_t bytes) {
    GEARSHIFT_RETURN_IF_ERROR(make_room(bytes));
    const base::TimePoint start = operation_.group().scheduler().now();
    GEARSHIFT_RETURN_IF_ERROR(order(bytes));
    GEARSHIFT_RETURN_IF_ERROR(exchange(bytes));
    return base::to_seconds(operation_.group().scheduler().now() - start);
  }

  base::Status order(std::uint64_t bytes) { return send(next_++, base::bytes_of(bytes)); }

  /// On both sides, before the clock starts.
  base::Status make_room(std::uint64_t bytes) {
    if (in_.size() >= bytes) return {};
    GEARSHIFT_RETURN_IF_ERROR(order(bytes | kMakeRoom));
    grow(bytes);
    std::uint64_t room = 0;
    return receive(next_++, base::writable_bytes_of(room));
  }

  base::Status answer(std::uint64_t bytes) {
    grow(bytes);
    return send(next_++, base::bytes_of(bytes));
  }

  base::Status exchange(std::uint64_t bytes) {
    const transport::Tag tag = operation_.tag(next_++);
    const transport::Request in =
        operation_.link(peer_).recv(tag, base::slice(in_.view(), 0, bytes));
    const transport::Request out =
        operation_.link(peer_).send(tag, base::slice(out_.view(), 0, bytes));
    base::Status received = operation_.await_recv(in, peer_, {});
    if (received) received = operation_.await_send(out, peer_, {});
    if (!received) {
      operation_.withdraw(in);
      operation_.withdraw(out);
    }
    return received;
  }

  base::Status send(std::size_t message, base::ConstBytes bytes) {
    return operation_.await_send(operation_.link(peer_).send(operation_.tag(message), bytes), peer_,
                                 {});
  }
  base::Status receive(std::size_t message, base::Bytes bytes) {
    return operation_.await_recv(operation_.link(peer_).recv(operation_.tag(message), bytes), peer_,
                                 {});
  }

  void grow(std::uint64_t bytes) {
    in_ = base::Buffer(bytes);
    out_ = base::Buffer(bytes);
    std::fill(in_.view().begin(), in_.view().end(), std::byte{0});
    std::fill(out_.view().begin(), out_.view().end(), std::byte{0});
  }

  const Operation& operation_;
  const int peer_;
  std::size_t next_ = 0;
  base::Buffer in_;
  base::Buffer out_;
};

/// The host that `host` meets in a round of a tournament of `hosts`, by the circle method: one
/// stays, the others move on by one place; -1: it has a rest.
int opponent(int host, int round, int hosts) {
  const int places = hosts + hosts % 2;
  const int moving = places - 1;
  int other = 0;
  if (host == moving) {
    // 2·other ≡ round: the one that would meet itself.
    other = round % 2 == 0 ? round / 2 : (round + moving) / 2;
  } else {
    other = ((round - host) % moving + moving) % moving;
    if (other == host) other = moving;
  }
  return other < hosts ? other : -1;
}

class Probe {
 public:
  Probe(group::Group& group, const group::Topology& hosts, base::Duration budget)
      : operation_(group, "survey of the links", "measuring", {}),
        hosts_(hosts),
        rank_(group.rank().value),
        host_(hosts.host_of(rank_)),
        budget_(budget),
        everybody_(static_cast<std::size_t>(hosts.size())),
        found_(2 * cells() + 3) {
    std::iota(everybody_.begin(), everybody_.end(), 0);
  }

  base::Result<group::LinkSpeeds> run() {
    operation_.reserve(kMaxMessages);
    const int rounds = std::min(kMaxRounds, hosts_.hosts() - 1 + hosts_.hosts() % 2);
    const base::Duration share = budget_ / (hosts_.hosts() > 1 ? rounds + 1 : 1);
    GEARSHIFT_RETURN_IF_ERROR(within_host(share));
    for (int round = 0; hosts_.hosts() > 1 && round < rounds; ++round) {
      GEARSHIFT_RETURN_IF_ERROR(between_hosts(round, share));
    }
    return speeds();
  }

  /// The values of those who measured, on all ranks.
  base::Status share(group::Group& group) {
    Operation operation(group, "survey of the links", "recursive_doubling", {});
    return recursive_doubling_all_reduce(operation, {everybody_, rank_},
                                         std::as_writable_bytes(std::span(found_)),
                                         base::DType::kF64, base::ReduceOp::kMax);
  }

  group::LinkSpeeds speeds() const;

 private:
  std::size_t cells() const {
    return static_cast<std::size_t>(hosts_.hosts()) * static_cast<std::size_t>(hosts_.hosts());
  }
  bool leads() const { return hosts_.members(host_)[0] == rank_; }

  void note(std::size_t latency, std::size_t per_byte, const group::LinkSpeed& speed) {
    found_[latency] = speed.latency;
    found_[per_byte] = speed.seconds_per_byte;
  }

  base::Status within_host(base::Duration share) {
    const std::vector<int>& members = hosts_.members(host_);
    if (leads()) measure_reduction();
    if (members.size() < 2 || (rank_ != members[0] && rank_ != members[1])) return {};
    if (rank_ == members[1]) return Duel(operation_, members[0]).follow();
    GEARSHIFT_ASSIGN_OR_RETURN(const auto speed, Duel(operation_, members[1]).drive(share));
    note(2 * cells(), 2 * cells() + 1, speed);
    return {};
  }

  base::Status between_hosts(int round, base::Duration share) {
    const int other = opponent(host_, round, hosts_.hosts());
    if (!leads() || other < 0) return {};
    const int peer = hosts_.members(other)[0];
    if (host_ > other) return Duel(operation_, peer).follow();
    GEARSHIFT_ASSIGN_OR_RETURN(const auto speed, Duel(operation_, peer).drive(share));
    const std::size_t cell = static_cast<std::size_t>(host_ * hosts_.hosts() + other);
    note(cell, cells() + cell, speed);
    return {};
  }

  void measure_reduction() {
    base::Buffer a(kReduceBytes);
    base::Buffer b(kReduceBytes);
    std::fill(a.view().begin(), a.view().end(), std::byte{0});
    std::fill(b.view().begin(), b.view().end(), std::byte{0});
    std::vector<double> times;
    for (int i = 0; i < 3; ++i) {
      const base::TimePoint begin = operation_.group().scheduler().now();
      kernels::reduce(base::DType::kF32, base::ReduceOp::kSum, a.view(), b.view());
      operation_.group().scheduler().work(base::Work::kCombine, kReduceBytes);
      times.push_back(base::to_seconds(operation_.group().scheduler().now() - begin));
    }
    found_[2 * cells() + 2] = median(times) / kReduceBytes;
  }

  Operation operation_;
  const group::Topology& hosts_;
  const int rank_;
  const int host_;
  const base::Duration budget_;
  std::vector<int> everybody_;
  /// hosts × hosts latencies, as many seconds per byte, then those within a host, and γ. 0: not
  /// measured here.
  std::vector<double> found_;
};

group::LinkSpeeds Probe::speeds() const {
  group::LinkSpeeds speeds;
  speeds.measured = true;
  const std::size_t n = cells();
  if (found_[2 * n + 1] > 0) speeds.local = {found_[2 * n], found_[2 * n + 1]};
  if (found_[2 * n + 2] > 0) speeds.reduce_seconds_per_byte = found_[2 * n + 2];
  std::vector<double> latencies;
  std::vector<double> per_byte;
  for (std::size_t cell = 0; cell < n; ++cell) {
    if (found_[n + cell] == 0) continue;
    latencies.push_back(found_[cell]);
    per_byte.push_back(found_[n + cell]);
  }
  if (latencies.empty()) return speeds;
  speeds.remote = {median(latencies), median(per_byte)};
  for (std::size_t cell = 0; cell < n; ++cell) {
    // Measured in one direction of the pair: Topology takes the slower of two.
    const bool known = found_[n + cell] > 0;
    speeds.between.push_back(known ? group::LinkSpeed{found_[cell], found_[n + cell]}
                                   : group::LinkSpeed{0, 0});
  }
  const auto hosts = static_cast<std::size_t>(hosts_.hosts());
  for (std::size_t a = 0; a < hosts; ++a) {
    for (std::size_t b = 0; b < a; ++b) {
      group::LinkSpeed& link = speeds.between[b * hosts + a];
      if (link.seconds_per_byte == 0) link = speeds.remote;
      speeds.between[a * hosts + b] = link;
    }
  }
  return speeds;
}

}  // namespace

base::Result<group::LinkSpeeds> probe(group::Group& group, const group::Topology& hosts,
                                      base::Duration budget) {
  Probe probe(group, hosts, budget);
  GEARSHIFT_RETURN_IF_ERROR(probe.run());
  GEARSHIFT_RETURN_IF_ERROR(probe.share(group));
  return probe.speeds();
}

}  // namespace gearshift::collectives
