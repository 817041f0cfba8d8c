// Local SGD: steps of unequal length, most of which send nothing.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "accounts.h"

namespace gearshift::sim::testing {
namespace {

using strategy::Compression;
using strategy::LocalSgd;

constexpr double kPort = 1e9;
/// Of one_parameter: forward, backward and optimizer.
constexpr double kComputes = 0.035;
constexpr std::int64_t kElements = 25'000'000;
/// What an all-reduce of so many float32 takes four workers on ideal links.
constexpr double kRound = 2 * 0.75 * 4 * kElements / kPort;

/// As the command line does it: the strategy is told how many steps there are.
SimulationOptions told(SimulationOptions options, int steps) {
  options.steps = steps;
  options.strategy.total_steps = steps;
  return options;
}

SimulationOptions ideal(LocalSgd local, int steps) {
  SimulationOptions options;
  options.cluster = ideal_cluster(4, kPort);
  options.workload = one_parameter(kElements);
  options.strategy.kind = local;
  return told(options, steps);
}

SimulationResult simulated_with(const SimulationOptions& options) {
  auto result = simulate(options);
  EXPECT_TRUE(result.ok()) << (result.ok() ? "" : result.error().to_string());
  return result ? std::move(*result) : SimulationResult{};
}

/// Each step of each worker takes the computation, and those of `rounds` a round more.
void expect_rounds(const SimulationResult& result, const std::vector<std::size_t>& rounds,
                   double round = kRound) {
  for (const WorkerResult& worker : result.workers) {
    for (std::size_t k = 1; k <= worker.steps.size(); ++k) {
      const StepTimes& step = worker.steps[k - 1];
      const bool ends_with_one = std::count(rounds.begin(), rounds.end(), k) > 0;
      const double formula = kComputes + (ends_with_one ? round : 0);
      EXPECT_NEAR(step.end - step.begin, formula, 1e-3 * formula) << "step " << k;
    }
    const double rounds_took = round * static_cast<double>(rounds.size());
    EXPECT_NEAR(worker.exposed_seconds, rounds_took, 1e-3 * rounds_took);
    EXPECT_NEAR(worker.communication_seconds, rounds_took, 1e-3 * rounds_took);
  }
}

TEST(SimulatedLocalSgd, TakesARoundPerSoManySteps) {
  for (const auto& [every, rounds] : std::vector<std::pair<int, std::vector<std::size_t>>>{
           {1, {1, 2, 3, 4, 5, 6, 7, 8}}, {4, {4, 8}}, {8, {8}}}) {
    in_child([&] {
      const SimulationResult result = simulated_with(ideal({.every = every}, 8));
      expect_rounds(result, rounds);
      const double seconds = 8 * (kComputes + kRound / every);
      EXPECT_NEAR(result.virtual_seconds, seconds, 1e-3 * seconds);
    });
  }
}

TEST(SimulatedLocalSgd, EndsWithARoundThatComesEarly) {
  in_child([] { expect_rounds(simulated_with(ideal({.every = 4}, 10)), {4, 8, 10}); });
  in_child([] { expect_rounds(simulated_with(ideal({.every = 32}, 6)), {6}); });
  // Who is not told when training ends has no round then.
  SimulationOptions untold = ideal({.every = 4}, 10);
  untold.strategy.total_steps = 0;
  in_child([&] { expect_rounds(simulated_with(untold), {4, 8}); });
}

TEST(SimulatedLocalSgd, SendsHalfAsMuchCompressed) {
  const LocalSgd local{
      .every = 4, .outer_lr = 0.7, .outer_momentum = 0.9, .compression = Compression::kBf16};
  in_child([&] { expect_rounds(simulated_with(ideal(local, 8)), {4, 8}, kRound / 2); });
}

/// Its straggler is waited for once per round, for as long as all of its steps took longer.
TEST(SimulatedLocalSgd, WaitsForAStragglerOncePerRound) {
  SimulationOptions options = ideal({.every = 4}, 12);
  options.cluster.stragglers.push_back({.host = "node-1", .factor = 2});
  in_child([&] {
    const SimulationResult result = simulated_with(options);
    const double seconds = 3 * (4 * 2 * kComputes + kRound);
    EXPECT_NEAR(result.virtual_seconds, seconds, 1e-3 * seconds);
    for (const WorkerResult& worker : result.workers) {
      const double exposed = 3 * (kRound + (worker.rank == 1 ? 0 : 4 * kComputes));
      // Its neighbour is done a little earlier with the round.
      EXPECT_NEAR(worker.exposed_seconds, exposed, 5e-3 * exposed) << worker.rank;
    }
  });
}

/// Messages and bytes, of each worker and of each link, in the whole training.
std::string sent_in(const SimulationOptions& options) {
  const std::string file = ::testing::TempDir() + "gearshift-sent." + std::to_string(::getpid());
  in_child([&] {
    const SimulationResult result = simulated_with(options);
    std::ofstream out(file);
    out << result.messages;
    for (const WorkerResult& worker : result.workers) {
      out << ' ' << worker.messages_sent << ' ' << worker.bytes_sent;
    }
    for (const LinkUse& link : result.links) out << ' ' << static_cast<std::int64_t>(link.bytes);
  });
  std::ifstream in(file);
  std::string sent;
  std::getline(in, sent);
  return sent;
}

TEST(SimulatedLocalSgd, ARoundSendsWhatAnAllReduceDoes) {
  for (const int workers : {2, 5}) {
    for (const Compression compression : {Compression::kNone, Compression::kBf16}) {
      const auto sent = [&](Kind kind, int steps) {
        SimulationOptions options = told(options_for(workers, std::move(kind)), steps);
        options.every_step = true;
        return sent_in(options);
      };
      const auto local = [&](int every, int steps) {
        return sent(LocalSgd{.every = every, .compression = compression}, steps);
      };
      const std::string three = sent(strategy::AllReduce{.compression = compression}, 3);
      EXPECT_NE(three, "");
      EXPECT_EQ(local(1, 3), three);
      EXPECT_EQ(local(4, 12), three);
      EXPECT_EQ(local(4, 9), three) << "the last round comes early";
      EXPECT_EQ(local(32, 65), three);
    }
  }
}

/// A host that failed begins anew at the checkpoint, from which rounds count then.
TEST(SimulatedLocalSgd, EndsWithARoundAfterAFailure) {
  SimulationOptions options = ideal({.every = 4}, 10);
  options.checkpoint_every = 5;
  options.detection = std::chrono::seconds(1);
  options.cluster.failures.push_back({.host = "node-2", .at = 0.55, .recovers_at = 2});
  in_child([&] {
    const SimulationResult result = simulated_with(options);
    EXPECT_EQ(result.restarts, 1);
    for (const WorkerResult& worker : result.workers) {
      ASSERT_EQ(worker.steps.size(), 10u);
      for (std::size_t k = 6; k <= 10; ++k) {
        const StepTimes& step = worker.steps[k - 1];
        const double formula = kComputes + (k == 9 || k == 10 ? kRound : 0);
        EXPECT_NEAR(step.end - step.begin, formula, 1e-3 * formula) << "step " << k;
      }
    }
  });
}

}  // namespace
}  // namespace gearshift::sim::testing
