#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

#include "gearshift/strategy/plan.h"

namespace gearshift::strategy {
namespace {

/// Ranks in the order of their hosts, each host with this bandwidth to all others.
group::Topology topology(const std::vector<int>& host_of, const std::vector<double>& bandwidths) {
  group::LinkSpeeds speeds;
  speeds.measured = true;
  for (const double a : bandwidths) {
    for (const double b : bandwidths) {
      speeds.between.push_back({.latency = 0, .seconds_per_byte = 1 / std::min(a, b)});
    }
  }
  return group::Topology(host_of, speeds);
}

std::vector<base::Rank> ranks(int first, int count) {
  std::vector<base::Rank> result;
  for (int r = first; r < first + count; ++r) result.emplace_back(r);
  return result;
}

using Weights = std::vector<std::uint32_t>;

TEST(ShardWeights, AreEqualWhereNothingIsMeasuredOrGained) {
  group::LinkSpeeds assumed = topology({0, 1, 2, 3}, {4, 4, 4, 1}).speeds();
  assumed.measured = false;
  EXPECT_TRUE(shard_weights(group::Topology({0, 1, 2, 3}, assumed), ranks(0, 4), 4).empty());
  EXPECT_TRUE(shard_weights(topology({0, 1, 2, 3}, {4, 4, 4, 4}), ranks(0, 4), 4).empty());
  EXPECT_TRUE(shard_weights(topology({0, 1, 2, 3}, {4, 4, 4, 3.6}), ranks(0, 4), 4).empty());
  EXPECT_TRUE(shard_weights(topology({0, 0, 0, 0}, {4}), ranks(0, 4), 4).empty());
  // Of two workers, each sends its gradients or its parameters, whoever owns how much.
  EXPECT_TRUE(shard_weights(topology({0, 1}, {4, 1}), ranks(0, 2), 2).empty());
}

TEST(ShardWeights, AHostWhoseGradientsFillItsLinkOwnsNothing) {
  // Its worker's gradients alone take 1/1; the others are done by then with a third each: 5/3 / 4.
  EXPECT_EQ(shard_weights(topology({0, 1, 2, 3}, {4, 4, 4, 1}), ranks(0, 4), 4),
            (Weights{1000, 1000, 1000, 0}));
}

TEST(ShardWeights, ASlowerHostOwnsWhatItsLinkHasTimeFor) {
  // (1 + 2s) / bandwidth is equal: 0.3 and 0.1 of the model.
  EXPECT_EQ(shard_weights(topology({0, 1, 2, 3}, {4, 4, 4, 3}), ranks(0, 4), 4),
            (Weights{1000, 1000, 1000, 333}));
}

TEST(ShardWeights, DedicatedServersOwnByBandwidth) {
  EXPECT_EQ(shard_weights(topology({0, 1, 2, 3, 4}, {9, 9, 9, 2, 1}), ranks(3, 2), 3),
            (Weights{1000, 500}));
}

TEST(ShardWeights, ShardsOfAHostShareWhatItOwns) {
  // The hosts of one worker could own all (1 + 2s by bandwidth 1); host 0 sends 2 with any share.
  const Weights weights = shard_weights(topology({0, 0, 1, 2}, {1, 1, 0.25}), ranks(0, 4), 4);
  EXPECT_EQ(weights, (Weights{1000, 1000, 1000, 0}));
}

TEST(ShardWeights, AHostWithMostWorkersOwnsAllWhereThatIsFaster) {
  // Equal shares: 3 - 2 * 3/4 from host 0, by a bandwidth of 1; all there: 1.
  const Weights weights = shard_weights(topology({0, 0, 0, 1}, {1, 2}), ranks(0, 4), 4);
  EXPECT_EQ(weights, (Weights{1000, 1000, 1000, 0}));
}

/// What the link of the slowest host takes.
double longest(const std::vector<double>& bandwidths, const std::vector<int>& workers,
               const std::vector<double>& shares) {
  const int all = std::accumulate(workers.begin(), workers.end(), 0);
  double most = 0;
  for (std::size_t h = 0; h < shares.size(); ++h) {
    const double sent = workers[h] * (1 - shares[h]) + (all - workers[h]) * shares[h];
    most = std::max(most, sent / bandwidths[h]);
  }
  return most;
}

// Against all shares in steps of a fiftieth.
TEST(ShardWeights, NoOtherSharesAreFaster) {
  std::mt19937 random(7);
  std::uniform_real_distribution<double> bandwidth(1, 5);
  for (int round = 0; round < 40; ++round) {
    const std::vector<int> workers{1 + round % 3, 1, 2};
    std::vector<double> bandwidths{bandwidth(random), bandwidth(random), bandwidth(random)};
    std::vector<int> host_of;
    for (int h = 0; h < 3; ++h)
      host_of.insert(host_of.end(), static_cast<std::size_t>(workers[static_cast<std::size_t>(h)]),
                     h);
    const int all = static_cast<int>(host_of.size());
    group::Topology world = topology(host_of, bandwidths);
    for (std::size_t h = 0; h < 3; ++h) bandwidths[h] = world.bandwidth(static_cast<int>(h));
    Weights weights = shard_weights(world, ranks(0, all), all);
    if (weights.empty()) weights.assign(host_of.size(), 1);
    std::vector<double> shares(3);
    for (std::size_t r = 0; r < weights.size(); ++r) {
      shares[static_cast<std::size_t>(host_of[r])] += weights[r];
    }
    const double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
    for (double& share : shares) share /= sum;
    double best = 1e9;
    for (int a = 0; a <= 50; ++a) {
      for (int b = 0; a + b <= 50; ++b) {
        best =
            std::min(best, longest(bandwidths, workers, {a / 50.0, b / 50.0, (50 - a - b) / 50.0}));
      }
    }
    // Within a fifth shards stay equal; those that were moved are at the optimum.
    const bool moved = weights != Weights(host_of.size(), 1);
    EXPECT_LE(longest(bandwidths, workers, shares), (moved ? 1.005 : 1.21) * best) << round;
  }
}

}  // namespace
}  // namespace gearshift::strategy
