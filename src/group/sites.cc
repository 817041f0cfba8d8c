#include "group/sites.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>

namespace gearshift::group {
namespace {

/// How much slower links between sites are, at least.
constexpr double kFarther = 3;
/// Seconds: what is shorter is not told apart.
constexpr double kLeast = 1e-9;
constexpr double kEndless = std::numeric_limits<double>::infinity();

struct Joined {
  std::size_t one = 0;  ///< a host of either group
  std::size_t other = 0;
  double distance = 0;  ///< its logarithm
};

/// Joins groups, each of which goes by the number of one of its hosts.
class Linkage {
 public:
  Linkage(const std::vector<double>& costs, std::size_t n)
      : n_(n), distances_(costs.size()), size_(n, 1), left_(n) {
    for (std::size_t i = 0; i < costs.size(); ++i) {
      distances_[i] = std::log(std::max(costs[i], kLeast));
    }
  }

  /// All n-1, nearest first.
  std::vector<Joined> run() {
    std::vector<Joined> all;
    std::vector<std::size_t> chain;
    while (left_ > 1) {
      if (chain.empty()) chain.push_back(first());
      const std::size_t end = chain.back();
      // Of several that are as near, the one that the chain comes from, or it would not end.
      const std::size_t before = chain.size() > 1 ? chain[chain.size() - 2] : n_;
      const std::size_t next = nearest(end, before);
      if (next != before) {
        chain.push_back(next);
        continue;
      }
      chain.resize(chain.size() - 2);
      all.push_back({end, before, at(end, before)});
      join(std::min(end, before), std::max(end, before));
    }
    std::stable_sort(all.begin(), all.end(),
                     [](const Joined& a, const Joined& b) { return a.distance < b.distance; });
    return all;
  }

 private:
  double& at(std::size_t a, std::size_t b) { return distances_[a * n_ + b]; }

  std::size_t first() const {
    return static_cast<std::size_t>(
        std::find_if(size_.begin(), size_.end(), [](std::size_t s) { return s > 0; }) -
        size_.begin());
  }

  std::size_t nearest(std::size_t group, std::size_t preferred) {
    std::size_t best = preferred;
    double least = preferred < n_ ? at(group, preferred) : kEndless;
    for (std::size_t other = 0; other < n_; ++other) {
      if (other == group || size_[other] == 0 || at(group, other) >= least) continue;
      best = other;
      least = at(group, other);
    }
    return best;
  }

  void join(std::size_t kept, std::size_t gone) {
    const auto a = static_cast<double>(size_[kept]);
    const auto b = static_cast<double>(size_[gone]);
    for (std::size_t other = 0; other < n_; ++other) {
      if (other == kept || other == gone || size_[other] == 0) continue;
      const double mean = (a * at(kept, other) + b * at(gone, other)) / (a + b);
      at(kept, other) = at(other, kept) = mean;
    }
    size_[kept] += size_[gone];
    size_[gone] = 0;
    --left_;
  }

  const std::size_t n_;
  std::vector<double> distances_;
  std::vector<std::size_t> size_;  ///< of a group; 0: it has been joined to another one
  std::size_t left_;
};

/// How many of them joined hosts of one site; 0: no gap is wide enough.
std::size_t joined_within(const std::vector<Joined>& joined) {
  double widest = std::log(kFarther);
  std::size_t within = 0;
  for (std::size_t i = 0; i + 1 < joined.size(); ++i) {
    const double gap = joined[i + 1].distance - joined[i].distance;
    if (gap < widest) continue;
    widest = gap;
    within = i + 1;
  }
  return within;
}

}  // namespace

std::vector<int> find_sites(const std::vector<double>& costs, int n) {
  if (n < 3) return {};
  const auto hosts = static_cast<std::size_t>(n);
  const std::vector<Joined> joined = Linkage(costs, hosts).run();
  const std::size_t within = joined_within(joined);
  if (within == 0) return {};
  std::vector<std::size_t> group(hosts);  // of each host
  std::iota(group.begin(), group.end(), 0);
  for (std::size_t i = 0; i < within; ++i) {
    const std::size_t kept = group[joined[i].one];
    const std::size_t gone = group[joined[i].other];
    std::replace(group.begin(), group.end(), gone, kept);
  }
  std::vector<int> label(hosts, -1);
  std::vector<int> site_of;
  int sites = 0;
  for (std::size_t host = 0; host < hosts; ++host) {
    int& mine = label[group[host]];
    if (mine < 0) mine = sites++;
    site_of.push_back(mine);
  }
  return site_of;
}

}  // namespace gearshift::group
