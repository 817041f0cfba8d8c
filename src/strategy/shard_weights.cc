#include <algorithm>
#include <cmath>
#include <vector>

#include "gearshift/strategy/plan.h"

namespace gearshift::strategy {
namespace {

/// What is gained must be more than measured bandwidths are wrong.
constexpr double kClearly = 1.2;
constexpr double kFullWeight = 1000;
constexpr int kHalvings = 60;

struct Host {
  double bandwidth = 0;
  int workers = 0;
  int shards = 0;
};

/// Shares of the model by host, so that the link that works longest is done as soon as possible.
///
/// In a step, a host with w of W workers and the share s of the model sends the gradients of its
/// workers to the others, w(1-s), and its parameters to their workers, (W-w)s: w + (W-2w)s in all,
/// and receives as much. So there is a largest share with which a link is done in time, or, where
/// at least half of the workers are, a least one. The earliest time at which the largest shares
/// suffice is found by bisection; within it, shards are as equal as they can be.
class Shares {
 public:
  explicit Shares(const std::vector<Host>& hosts) : hosts_(hosts) {
    for (const Host& host : hosts_) {
      workers_ += host.workers;
      shards_ += host.shards;
    }
  }

  std::vector<double> equal() const {
    std::vector<double> shares;
    for (const Host& host : hosts_) shares.push_back(static_cast<double>(host.shards) / shards_);
    return shares;
  }

  std::vector<double> best() const {
    double late = 0;
    for (const Host& host : hosts_) late = std::max(late, seconds(host, 1));
    const double fill = bisect(late, [this](double t) { return sum(t, 1) >= 1; });
    // Hosts that own nothing may take longer than that: then there is time for the others, too.
    const double all = std::max(fill, longest(at(fill, 1))) * (1 + 1e-9);
    return at(all, bisect(1, [&](double level) { return sum(all, level) >= 1; }));
  }

  /// The time of the link that works longest, for a model of one byte.
  double longest(const std::vector<double>& shares) const {
    double most = 0;
    for (std::size_t i = 0; i < hosts_.size(); ++i) {
      most = std::max(most, seconds(hosts_[i], shares[i]));
    }
    return most;
  }

 private:
  double seconds(const Host& host, double share) const {
    return (host.workers + (workers_ - 2 * host.workers) * share) / host.bandwidth;
  }

  /// The share of a host that is done by `t`, with `level` per shard if that may be.
  double share(const Host& host, double t, double level) const {
    if (host.shards == 0) return 0;
    const double more = workers_ - 2 * host.workers;
    const double limit =
        more == 0 ? 1 : std::clamp((t * host.bandwidth - host.workers) / more, 0.0, 1.0);
    const double wanted = std::min(1.0, level * host.shards);
    return more < 0 ? std::max(wanted, limit) : std::min(wanted, limit);
  }

  std::vector<double> at(double t, double level) const {
    std::vector<double> shares;
    for (const Host& host : hosts_) shares.push_back(share(host, t, level));
    return shares;
  }
  double sum(double t, double level) const {
    double all = 0;
    for (const Host& host : hosts_) all += share(host, t, level);
    return all;
  }

  /// The least value up to `high` with which something is so, as it is from there on.
  template <typename Predicate>
  static double bisect(double high, Predicate is_so) {
    double low = 0;
    for (int i = 0; i < kHalvings; ++i) {
      const double middle = (low + high) / 2;
      (is_so(middle) ? high : low) = middle;
    }
    return high;
  }

  const std::vector<Host>& hosts_;
  double workers_ = 0;
  double shards_ = 0;
};

}  // namespace

std::vector<std::uint32_t> shard_weights(const group::Topology& world,
                                         const std::vector<base::Rank>& servers, int workers) {
  if (!world.speeds().measured || world.hosts() == 1) return {};
  std::vector<Host> hosts(static_cast<std::size_t>(world.hosts()));
  for (int h = 0; h < world.hosts(); ++h) {
    hosts[static_cast<std::size_t>(h)].bandwidth = world.bandwidth(h);
  }
  const auto host_of = [&](int rank) { return static_cast<std::size_t>(world.host_of(rank)); };
  for (int r = 0; r < workers; ++r) ++hosts[host_of(r)].workers;
  for (const base::Rank r : servers) ++hosts[host_of(r.value)].shards;
  const Shares shares(hosts);
  const std::vector<double> best = shares.best();
  if (shares.longest(shares.equal()) <= kClearly * shares.longest(best)) return {};
  std::vector<double> of_shard;
  for (const base::Rank r : servers) {
    of_shard.push_back(best[host_of(r.value)] / hosts[host_of(r.value)].shards);
  }
  const double largest = *std::max_element(of_shard.begin(), of_shard.end());
  std::vector<std::uint32_t> weights;
  for (const double share : of_shard) {
    weights.push_back(static_cast<std::uint32_t>(std::lround(kFullWeight * share / largest)));
  }
  return weights;
}

}  // namespace gearshift::strategy
