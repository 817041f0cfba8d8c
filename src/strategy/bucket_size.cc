#include "strategy/bucket_size.h"

#include <algorithm>
#include <cmath>
#include <variant>

#include "gearshift/collectives/cost.h"
#include "strategy/phases.h"

namespace gearshift::strategy {
namespace {

constexpr std::size_t kSmallest = std::size_t{64} << 10;
/// Beyond it little is gained: a large model has many buckets then, and latency is nothing of one.
constexpr std::size_t kLargest = std::size_t{16} << 20;
/// Unless links are as long as from one site to another, and fast. Larger buckets are on their way
/// later; they have to be worth it.
constexpr std::size_t kLargestFar = std::size_t{128} << 20;
constexpr double kWorthIt = 0.9;
/// A model has at least so many buckets that are larger than usual: the last one of them is waited
/// for.
constexpr std::size_t kFew = 4;
/// Links are measured on machines that do other work, too.
constexpr double kAlike = 1.5;
/// Of the time between two processes, sending a message takes so much: the rest is on the way,
/// while others are sent.
constexpr double kSending = 0.25;
constexpr int kFewWorkers = static_cast<int>(kUsualBucketBytes / kDedicatedSliceBytes);

/// What a model costs that is cut into buckets.
class Cost {
 public:
  Cost(std::size_t model_bytes, const Phase& phase, const group::Topology& topology, int workers)
      : model_(static_cast<double>(model_bytes)),
        all_reduce_(exchange_of(phase)),
        network_(topology) {
    if (const auto* server = std::get_if<ParameterServer>(&phase)) {
      shards_ = server->shards > 0 ? server->shards : workers;
      load_ = std::max(1.0, static_cast<double>(workers) / shards_);
    }
  }

  std::size_t largest() const { return all_reduce_ ? kLargest : kUsualBucketBytes; }

  /// Of all buckets one after the other, and of one alone.
  double seconds(std::size_t bucket_bytes) const {
    const double count = std::max(1.0, std::ceil(model_ / static_cast<double>(bucket_bytes)));
    const double bytes = model_ / count;
    return all_reduce_ ? reduced(count, bytes) : served(count, bytes);
  }

 private:
  /// Two are on their way at a time, but the next one may be the last.
  double reduced(double count, double bytes) const {
    const double sent = all_reduce_->compression == Compression::kBf16 ? bytes / 2 : bytes;
    return (count + 1) *
           collectives::predict(all_reduce_->algorithm, static_cast<std::size_t>(sent), network_);
  }

  /// There is a message to each shard, and its answer; a server's link carries what all workers
  /// send to it. Sending costs processors, so it is not counted as hidden behind the wire.
  double served(double count, double bytes) const {
    const group::LinkSpeed& link = network_.remote;
    const double wire = load_ * bytes * link.seconds_per_byte;
    const double sending = shards_ * kSending * link.latency;
    return count * (wire + sending) + 2 * (link.latency + wire);
  }

  double model_;
  std::optional<AllReduce> all_reduce_;
  collectives::Network network_;
  int shards_ = 1;
  double load_ = 1;
};

/// Whether all hosts are equally near to each other.
bool are_alike(const group::Topology& topology) {
  const double slowest = 1 / topology.slowest_remote().seconds_per_byte;
  return topology.sites() == nullptr && topology.greatest_bandwidth() <= kAlike * slowest;
}

/// Whether all links carry the same, at the same time. Otherwise messages queue up, and a commit
/// waits behind small slices: it passes large ones. Bounded staleness keeps few workers together.
bool is_balanced(const ParameterServer& server, int workers) {
  const auto kind = server.consistency.kind;
  const bool together = kind == ps::Consistency::Kind::kBsp ||
                        (kind == ps::Consistency::Kind::kSsp && workers <= kFewWorkers);
  return together && (server.shards == 0 || server.shards == workers);
}

/// Of buckets whose slices, which are `slice_bytes` each, a commit passes in a queue, if the model
/// has some of them.
std::size_t passed_by_commits(std::size_t model_bytes, int shards, std::size_t slice_bytes) {
  const std::size_t slices = static_cast<std::size_t>(shards) * slice_bytes;
  const std::size_t most = std::max(kUsualBucketBytes, model_bytes / kFew);
  return std::clamp(std::min(slices, most), kUsualBucketBytes, kLargest);
}

}  // namespace

std::size_t best_bucket_bytes(std::size_t model_bytes, const Phase& phase,
                              const group::Topology* topology, int workers) {
  if (topology == nullptr || topology->hosts() < 2 || !topology->speeds().measured) {
    return kUsualBucketBytes;
  }
  const bool alike = are_alike(*topology);
  if (const auto* server = std::get_if<ParameterServer>(&phase)) {
    const int dedicated = topology->size() - workers;
    const int shards = dedicated > 0 ? dedicated : server->shards > 0 ? server->shards : workers;
    const std::size_t slice_bytes = passed_slice_bytes(server->compression);
    const std::size_t passed = passed_by_commits(model_bytes, shards, slice_bytes);
    if (dedicated > 0) return std::min(passed, shards * slice_bytes);
    if (!alike || !is_balanced(*server, workers)) return passed;
  }
  const Cost cost(model_bytes, phase, *topology, workers);
  std::size_t best = cost.largest();
  double least = cost.seconds(best);
  const std::size_t smallest = alike ? kSmallest : kUsualBucketBytes;
  for (std::size_t b = best / 2; b >= smallest; b /= 2) {
    const double seconds = cost.seconds(b);
    if (seconds >= least) continue;
    best = b;
    least = seconds;
  }
  if (best < cost.largest() || !exchange_of(phase)) return best;
  for (std::size_t b = 2 * kLargest; b <= kLargestFar; b *= 2) {
    const double seconds = cost.seconds(b);
    if (seconds > kWorthIt * least) break;
    best = b;
    least = seconds;
  }
  return best;
}

}  // namespace gearshift::strategy
