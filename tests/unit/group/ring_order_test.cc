#include "group/ring_order.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <random>

namespace gearshift::group {
namespace {

std::vector<double> symmetric(int n, const std::function<double(int, int)>& cost) {
  std::vector<double> costs(static_cast<std::size_t>(n * n));
  for (int a = 0; a < n; ++a) {
    for (int b = 0; b < a; ++b) {
      costs[static_cast<std::size_t>(a * n + b)] = cost(a, b);
      costs[static_cast<std::size_t>(b * n + a)] = cost(a, b);
    }
  }
  return costs;
}

std::vector<double> random_costs(int n, std::mt19937& random) {
  std::uniform_int_distribution<int> cost(1, 20);
  return symmetric(n, [&](int, int) { return cost(random); });
}

RingCost brute_force(const std::vector<double>& costs, int n) {
  std::vector<int> ring(static_cast<std::size_t>(n));
  std::iota(ring.begin(), ring.end(), 0);
  RingCost best = ring_cost(costs, ring);
  while (std::next_permutation(ring.begin() + 1, ring.end())) {
    best = std::min(best, ring_cost(costs, ring),
                    [](const RingCost& a, const RingCost& b) { return a < b; });
  }
  return best;
}

void expect_ring(const std::vector<int>& ring, int n) {
  ASSERT_EQ(ring.size(), static_cast<std::size_t>(n));
  EXPECT_EQ(ring[0], 0);
  std::vector<int> sorted = ring;
  std::sort(sorted.begin(), sorted.end());
  for (int h = 0; h < n; ++h) EXPECT_EQ(sorted[static_cast<std::size_t>(h)], h);
}

TEST(RingOrder, IsTheBestOfAllRings) {
  std::mt19937 random(7);
  for (int n = 4; n <= 8; ++n) {
    for (int trial = 0; trial < 20; ++trial) {
      const auto costs = random_costs(n, random);
      const auto ring = ring_order(costs, n);
      expect_ring(ring, n);
      EXPECT_EQ(ring_cost(costs, ring), brute_force(costs, n));
    }
  }
}

TEST(RingOrder, AvoidsSlowLinksWhereItCan) {
  // Two sites: fast within, slow between. Two links must cross, and no more do.
  for (const int n : {6, 10, 24}) {
    const auto site = [](int host) { return host % 2; };
    const auto costs = symmetric(n, [&](int a, int b) { return site(a) == site(b) ? 1.0 : 100.0; });
    const auto ring = ring_order(costs, n);
    expect_ring(ring, n);
    EXPECT_EQ(ring_cost(costs, ring).sum, n - 2 + 200.0) << n;
  }
  // One slow link among fast ones is not used at all.
  for (const int n : {4, 9, 16}) {
    const auto costs = symmetric(n, [](int a, int b) { return a + b == 1 ? 100.0 : 1.0; });
    EXPECT_EQ(ring_cost(costs, ring_order(costs, n)).slowest, 1.0) << n;
  }
}

TEST(RingOrder, StaysPlainWhenLinksAreAlike) {
  std::mt19937 random(1);
  std::uniform_real_distribution<double> cost(1, 1.19);
  for (const int n : {1, 2, 3, 7, 30}) {
    const auto costs = symmetric(n, [&](int, int) { return cost(random); });
    std::vector<int> plain(static_cast<std::size_t>(n));
    std::iota(plain.begin(), plain.end(), 0);
    EXPECT_EQ(ring_order(costs, n), plain);
  }
}

TEST(RingOrder, IsGoodForManyHosts) {
  std::mt19937 random(3);
  for (const int n : {11, 30, 100}) {
    // Hosts along a line: the best ring goes there by every other one, and back by the rest.
    std::vector<int> place(static_cast<std::size_t>(n));
    std::iota(place.begin(), place.end(), 0);
    std::shuffle(place.begin(), place.end(), random);
    const auto costs = symmetric(n, [&](int a, int b) {
      return std::abs(place[static_cast<std::size_t>(a)] - place[static_cast<std::size_t>(b)]);
    });
    const auto ring = ring_order(costs, n);
    expect_ring(ring, n);
    EXPECT_LE(ring_cost(costs, ring).sum, 1.25 * 2 * (n - 1)) << n;
  }
}

}  // namespace
}  // namespace gearshift::group
