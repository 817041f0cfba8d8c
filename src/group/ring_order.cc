#include "group/ring_order.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace gearshift::group {
namespace {

constexpr double kNoise = 1.2;
constexpr double kNever = std::numeric_limits<double>::infinity();
/// Tours from which the heuristic starts, and links that it looks at in all.
constexpr int kStarts = 16;
constexpr long kPatience = 4'000'000;

class Costs {
 public:
  Costs(const std::vector<double>& values, int n) : values_(values), n_(n) {}
  double operator()(int a, int b) const {
    return values_[static_cast<std::size_t>(a) * static_cast<std::size_t>(n_) +
                   static_cast<std::size_t>(b)];
  }
  int size() const { return n_; }

 private:
  const std::vector<double>& values_;
  int n_;
};

/// Held–Karp from host 0 over all others; `add` extends the cost of a path by a link.
template <typename Add>
class HeldKarp {
 public:
  HeldKarp(int n, Add add)
      : n_(n),
        others_(n - 1),
        add_(add),
        best_((std::size_t{1} << others_) * static_cast<std::size_t>(others_), kNever),
        before_(best_.size(), -1) {
    for (int h = 0; h < others_; ++h) at(std::size_t{1} << h, h) = add_(0, 0, h + 1);
    for (std::size_t set = 1; set < std::size_t{1} << others_; ++set) extend(set);
  }

  double cost() const { return closed(last()); }

  std::vector<int> ring() const {
    std::vector<int> reversed;
    std::size_t set = (std::size_t{1} << others_) - 1;
    for (int h = last(); h >= 0;) {
      reversed.push_back(h + 1);
      const int previous = before_[index(set, h)];
      set &= ~(std::size_t{1} << h);
      h = previous;
    }
    reversed.push_back(0);
    std::reverse(reversed.begin(), reversed.end());
    return reversed;
  }

 private:
  std::size_t index(std::size_t set, int last) const {
    return set * static_cast<std::size_t>(others_) + static_cast<std::size_t>(last);
  }
  double& at(std::size_t set, int last) { return best_[index(set, last)]; }

  void extend(std::size_t set) {
    for (int h = 0; h < others_; ++h) {
      const double so_far = at(set, h);
      if (so_far == kNever) continue;
      for (int next = 0; next < others_; ++next) {
        if ((set >> next & 1U) != 0) continue;
        const std::size_t larger = set | std::size_t{1} << next;
        const double cost = add_(so_far, h + 1, next + 1);
        if (cost < at(larger, next)) {
          at(larger, next) = cost;
          before_[index(larger, next)] = h;
        }
      }
    }
  }

  double closed(int last) const {
    return add_(best_[index((std::size_t{1} << others_) - 1, last)], last + 1, 0);
  }
  int last() const {
    int best = 0;
    for (int h = 1; h < others_; ++h) {
      if (closed(h) < closed(best)) best = h;
    }
    return best;
  }

  const int n_;
  const int others_;
  const Add add_;
  std::vector<double> best_;  ///< (set of hosts visited, last of them) → cost of the best path
  std::vector<int> before_;   ///< the host before the last on that path; -1: host 0
};

std::vector<int> exact(const Costs& costs) {
  const auto slowest = [&](double so_far, int a, int b) { return std::max(so_far, costs(a, b)); };
  const double bottleneck = HeldKarp(costs.size(), slowest).cost();
  const auto sum = [&](double so_far, int a, int b) {
    return costs(a, b) <= bottleneck ? so_far + costs(a, b) : kNever;
  };
  return HeldKarp(costs.size(), sum).ring();
}

std::vector<int> nearest_neighbours(const Costs& costs, int start) {
  std::vector<int> ring = {start};
  std::vector<bool> visited(static_cast<std::size_t>(costs.size()));
  visited[static_cast<std::size_t>(start)] = true;
  while (static_cast<int>(ring.size()) < costs.size()) {
    int best = -1;
    for (int h = 0; h < costs.size(); ++h) {
      if (visited[static_cast<std::size_t>(h)]) continue;
      if (best < 0 || costs(ring.back(), h) < costs(ring.back(), best)) best = h;
    }
    visited[static_cast<std::size_t>(best)] = true;
    ring.push_back(best);
  }
  return ring;
}

/// Reverses stretches of the ring as long as that helps.
RingCost improve(const std::vector<double>& costs, std::vector<int>& ring, long& patience) {
  RingCost best = ring_cost(costs, ring);
  for (bool better = true; better;) {
    better = false;
    for (auto first = ring.begin() + 1; first != ring.end(); ++first) {
      for (auto last = first + 2; last <= ring.end() && patience > 0; ++last) {
        std::reverse(first, last);
        patience -= static_cast<long>(ring.size());
        const RingCost cost = ring_cost(costs, ring);
        if (cost < best) {
          best = cost;
          better = true;
        } else {
          std::reverse(first, last);
        }
        if (last == ring.end()) break;
      }
    }
  }
  return best;
}

std::vector<int> good(const Costs& costs, const std::vector<double>& values) {
  std::vector<int> best;
  RingCost best_cost{kNever, kNever};
  long patience = kPatience;
  for (int start = 0; start < std::min(kStarts, costs.size()); ++start) {
    std::vector<int> ring = nearest_neighbours(costs, start);
    const RingCost cost = improve(values, ring, patience);
    if (cost < best_cost) {
      best_cost = cost;
      best = std::move(ring);
    }
  }
  std::rotate(best.begin(), std::find(best.begin(), best.end(), 0), best.end());
  return best;
}

bool all_alike(const Costs& costs) {
  double least = kNever;
  double most = 0;
  for (int a = 0; a < costs.size(); ++a) {
    for (int b = 0; b < costs.size(); ++b) {
      if (a == b) continue;
      least = std::min(least, costs(a, b));
      most = std::max(most, costs(a, b));
    }
  }
  return most <= kNoise * least;
}

}  // namespace

RingCost ring_cost(const std::vector<double>& costs, const std::vector<int>& ring) {
  const Costs cost(costs, static_cast<int>(ring.size()));
  RingCost total;
  for (std::size_t i = 0; i < ring.size(); ++i) {
    const double link = cost(ring[i], ring[(i + 1) % ring.size()]);
    total.slowest = std::max(total.slowest, link);
    total.sum += link;
  }
  return total;
}

std::vector<int> ring_order(const std::vector<double>& costs, int n) {
  const Costs cost(costs, n);
  // Up to three hosts there is one ring only.
  if (n > 3 && !all_alike(cost)) return n <= kExactRing ? exact(cost) : good(cost, costs);
  std::vector<int> plain(static_cast<std::size_t>(n));
  std::iota(plain.begin(), plain.end(), 0);
  return plain;
}

}  // namespace gearshift::group
