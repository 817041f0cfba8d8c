#include "gearshift/sim/link_probe.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "gearshift/collectives/collectives.h"
#include "gearshift/kernels/reduce.h"
#include "gearshift/ps/optimizer.h"

namespace gearshift::sim {
namespace {

using base::Rank;

constexpr int kWarmUp = 3;
constexpr int kStreamed = 2000;
constexpr std::size_t kStreamedBytes = 64;
/// Round trips of a size end after so long, once there are a few.
constexpr double kLongestSeconds = 1.0;
constexpr std::size_t kWorkBytes = 32U << 20;  ///< more than caches hold
constexpr int kWorkRounds = 15;

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// One pair at work; each method is called on both sides.
class Pair {
 public:
  Pair(group::Group& group, Rank peer, bool first)
      : group_(group), scheduler_(group.scheduler()), peer_(peer), first_(first) {}

  base::Result<double> one_way(std::size_t size, int round_trips) {
    buffer_.resize(std::max<std::size_t>(size, 1));
    const base::Bytes bytes = base::Bytes(buffer_).first(size);
    std::vector<double> times;
    const base::TimePoint begin = scheduler_.now();
    std::byte more{1};
    for (int i = 0; more == std::byte{1}; ++i) {
      const base::TimePoint start = scheduler_.now();
      GEARSHIFT_RETURN_IF_ERROR(first_ ? send(bytes) : recv(bytes));
      GEARSHIFT_RETURN_IF_ERROR(first_ ? recv(bytes) : send(bytes));
      const base::TimePoint end = scheduler_.now();
      if (i >= kWarmUp) times.push_back(base::to_seconds(end - start) / 2);
      const bool long_enough = i >= 2 * kWarmUp && base::to_seconds(end - begin) > kLongestSeconds;
      more = std::byte{i < kWarmUp + round_trips && !long_enough};
      const base::Bytes flag(&more, 1);
      GEARSHIFT_RETURN_IF_ERROR(first_ ? send(flag) : recv(flag));
    }
    return median(std::move(times));
  }

  base::Result<double> per_message() {
    buffer_.resize(kStreamedBytes);
    const base::Bytes bytes(buffer_);
    const base::TimePoint start = scheduler_.now();
    for (int i = 0; i < kStreamed; ++i) {
      GEARSHIFT_RETURN_IF_ERROR(first_ ? send(bytes) : recv(bytes));
    }
    GEARSHIFT_RETURN_IF_ERROR(first_ ? recv(bytes) : send(bytes));
    return base::to_seconds(scheduler_.now() - start) / kStreamed;
  }

 private:
  base::Status send(base::ConstBytes bytes) { return collectives::send(group_, bytes, peer_); }
  base::Status recv(base::Bytes bytes) { return collectives::recv(group_, bytes, peer_); }

  group::Group& group_;
  base::Scheduler& scheduler_;
  const Rank peer_;
  const bool first_;
  std::vector<std::byte> buffer_;
};

/// Bytes per second of something done to `kWorkBytes`.
template <typename F>
double rate_of(base::Scheduler& scheduler, F work) {
  std::vector<double> times;
  for (int i = 0; i < kWorkRounds; ++i) {
    const base::TimePoint start = scheduler.now();
    work();
    times.push_back(base::to_seconds(scheduler.now() - start));
  }
  return static_cast<double>(kWorkBytes) / median(std::move(times));
}

}  // namespace

base::Result<LinkTimes> probe_link(group::Group& group, Rank a, Rank b,
                                   const std::vector<std::size_t>& sizes, int round_trips) {
  LinkTimes times;
  const bool first = group.rank() == a;
  if (first || group.rank() == b) {
    Pair pair(group, first ? b : a, first);
    for (const std::size_t size : sizes) {
      GEARSHIFT_ASSIGN_OR_RETURN(const double seconds, pair.one_way(size, round_trips));
      if (first) times.one_way.push_back(seconds);
    }
    GEARSHIFT_ASSIGN_OR_RETURN(const double seconds, pair.per_message());
    if (first) times.per_message = seconds;
  }
  GEARSHIFT_RETURN_IF_ERROR(collectives::barrier(group));
  return times;
}

base::Result<WorkRates> probe_work(base::Scheduler& scheduler) {
  std::vector<float> a(kWorkBytes / sizeof(float), 1), b(a);
  const base::Bytes left = std::as_writable_bytes(std::span<float>(a));
  const base::Bytes right = std::as_writable_bytes(std::span<float>(b));
  WorkRates rates;
  rates.copy = rate_of(scheduler, [&] { std::memcpy(left.data(), right.data(), left.size()); });
  rates.reduce = rate_of(
      scheduler, [&] { kernels::reduce(base::DType::kF32, base::ReduceOp::kSum, left, right); });
  const ps::OptimizerSpec rule{"sgd", {"lr", "momentum"}, 1};
  const ps::Slice whole{0, base::DType::kF32, 0, kWorkBytes, {{0, 0, 0, 0, a.size()}}};
  GEARSHIFT_ASSIGN_OR_RETURN(const auto optimizer, ps::make_native_optimizer(rule, {whole}));
  const std::vector<ps::SegmentUpdate> updates{{0, 0, left, right}};
  base::Status applied;
  rates.update = rate_of(scheduler, [&] { applied = optimizer->apply(updates, {1e-3, 0.9}, 1); });
  if (!applied) return applied.error();
  return rates;
}

}  // namespace gearshift::sim
