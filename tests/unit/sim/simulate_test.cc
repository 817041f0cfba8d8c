#include "gearshift/sim/simulate.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <set>
#include <sstream>

#include "clusters.h"
#include "in_child.h"

namespace gearshift::sim::testing {
namespace {

/// Everything about a result that must be the same when it is computed again, to the last bit.
std::string fingerprint(const SimulationResult& result) {
  std::ostringstream text;
  text << std::hexfloat << result.virtual_seconds << ' ' << result.messages;
  for (const WorkerResult& worker : result.workers) {
    for (const StepTimes& step : worker.steps) {
      text << ' ' << step.begin << ' ' << step.computed << ' ' << step.end;
    }
    for (const auto& [staleness, count] : worker.staleness)
      text << ' ' << staleness << ':' << count;
    text << ' ' << worker.exposed_seconds << ' ' << worker.bytes_sent;
  }
  for (const LinkUse& link : result.links) text << ' ' << link.name << ' ' << link.bytes;
  return text.str();
}

SimulationOptions some_options() {
  SimulationOptions options;
  options.cluster = ideal_cluster(4, 125e6);
  for (Host& host : options.cluster.hosts) {
    host.latency = 25e-6;
    host.model = HostModel{};
  }
  options.cluster.variability = Variability{.kind = Variability::Kind::kLogNormal, .spread = 0.2};
  options.workload = one_parameter(1'000'003);
  options.workload.parameters.push_back({"bias", {1003}, base::DType::kF32, 0.004});
  options.steps = 6;
  return options;
}

base::Result<SimulationResult> run(const SimulationOptions& options) {
  auto result = simulate(options);
  EXPECT_TRUE(result.ok()) << (result.ok() ? "" : result.error().to_string());
  return result;
}

std::vector<decltype(strategy::Strategy::kind)> strategies() {
  strategy::ParameterServer ssp, asp, one_shard;
  ssp.consistency = ps::Consistency::ssp(1);
  asp.consistency = ps::Consistency::asp();
  one_shard.shards = 1;
  strategy::StrategySwitch both;
  both.policy = strategy::at_step(2);
  both.back = strategy::at_step(4);
  return {strategy::AllReduce{}, strategy::ParameterServer{}, ssp, asp, one_shard, both};
}

/// Writes the fingerprint of a simulation in a child process, and compares it with one that is
/// known.
void compare(const SimulationOptions& options, const std::string& file, bool first) {
  const auto result = run(options);
  if (!result) return;
  const std::string mine = fingerprint(*result);
  if (first) {
    std::FILE* out = std::fopen(file.c_str(), "w");
    std::fputs(mine.c_str(), out);
    std::fclose(out);
    return;
  }
  std::FILE* in = std::fopen(file.c_str(), "r");
  std::string known(mine.size() + 1, '\0');
  known.resize(std::fread(known.data(), 1, known.size(), in));
  std::fclose(in);
  EXPECT_EQ(mine, known);
}

TEST(Simulate, EqualOptionsGiveEqualResultsToTheLastBit) {
  const std::string file =
      ::testing::TempDir() + "gearshift-fingerprint." + std::to_string(::getpid());
  for (const auto& kind : strategies()) {
    SimulationOptions options = some_options();
    options.strategy.kind = kind;
    in_child([&] { compare(options, file, true); });
    in_child([&] { compare(options, file, false); });
  }
}

TEST(Simulate, WorkersComputeForAsLongAsTheirPaceSays) {
  SimulationOptions options = some_options();
  options.cluster.variability = Variability{};
  options.cluster.hosts[1].speed = 2;
  options.cluster.stragglers.push_back(
      {.host = "node-2", .factor = 3, .from_step = 2, .to_step = 3});
  in_child([&] {
    const auto result = run(options);
    for (const WorkerResult& worker : result->workers) {
      for (std::size_t k = 0; k < worker.steps.size(); ++k) {
        const bool slow = worker.rank == 2 && (k == 1 || k == 2);
        const double factor = worker.rank == 1 ? 0.5 : slow ? 3 : 1;
        EXPECT_NEAR(worker.steps[k].computed - worker.steps[k].begin, 0.030 * factor, 1e-6);
      }
    }
  });
}

TEST(Simulate, AsynchronousWorkersDoNotWaitForAStraggler) {
  SimulationOptions options = some_options();
  options.cluster.variability = Variability{};
  options.cluster.stragglers.push_back({.host = "node-3", .factor = 20});
  strategy::ParameterServer server;
  server.consistency = ps::Consistency::asp();
  options.strategy.kind = server;
  in_child([&] {
    const auto result = run(options);
    EXPECT_LT(result->workers[0].steps.back().end, result->workers[3].steps.back().end / 3);
    std::int64_t most = 0;
    for (const auto& [staleness, count] : result->workers[3].staleness) most = staleness;
    EXPECT_GE(most, 10);
  });
}

TEST(Simulate, LinksCarryWhatTheWorkersSend) {
  SimulationOptions options = some_options();
  options.strategy.kind = strategy::AllReduce{collectives::Algorithm::kRing};
  in_child([&] {
    const auto result = run(options);
    double out = 0, in = 0, sent = 0;
    for (const LinkUse& link : result->links) {
      (link.name.ends_with(" out") ? out : in) += link.bytes;
    }
    for (const WorkerResult& worker : result->workers) {
      sent += static_cast<double>(worker.bytes_sent);
    }
    EXPECT_EQ(out, in);
    EXPECT_NEAR(out, sent, 4 * 64 * 4) << "but for the last barrier before the first step";
  });
}

TEST(Simulate, TimelineCoversTheSteps) {
  SimulationOptions options = some_options();
  options.timeline = true;
  in_child([&] {
    const auto result = run(options);
    double computed = 0;
    for (const Span& span : result->timeline) {
      EXPECT_LE(span.begin, span.end);
      if (span.rank == 0 && span.track == "computation") computed += span.end - span.begin;
    }
    const auto& steps = result->workers[0].steps;
    EXPECT_NEAR(computed, steps.back().end - steps.front().begin, 1e-3);
  });
}

TEST(Simulate, TimelineBeginsWithTheTraining) {
  for (const int workers : {3, 5}) {
    SimulationOptions options = some_options();
    options.cluster = Cluster{};
    for (int i = 0; i < workers; ++i) {
      options.cluster.hosts.emplace_back().name = "node-" + std::to_string(i);
    }
    options.sharing = Sharing::kMaxMin;
    options.timeline = true;
    in_child([&] {
      const auto result = run(options);
      for (const Span& span : result->timeline) {
        EXPECT_GE(span.begin, 0) << span.track;
        EXPECT_GT(span.end, span.begin) << span.track;
      }
    });
  }
}

TEST(Simulate, TimelineHasTheMessagesOfDedicatedServers) {
  SimulationOptions options = some_options();
  options.cluster = ideal_cluster(2, 125e6, 1);
  options.strategy.kind = strategy::ParameterServer{};
  options.timeline = true;
  in_child([&] {
    const auto result = run(options);
    std::set<std::string> tracks;
    for (const Span& span : result->timeline) {
      if (span.rank == 2) tracks.insert(span.track);
      EXPECT_GE(span.begin, 0);
    }
    EXPECT_EQ(tracks, (std::set<std::string>{"wire to 0", "wire to 1"}));
  });
}

/// Steps of 0.1 s and more, in which node-2 fails after 0.35 s; the others notice 2 s later.
SimulationOptions failing_options(Sharing sharing) {
  SimulationOptions options = some_options();
  options.sharing = sharing;
  options.cluster.variability = Variability{};
  options.workload.forward_seconds = 0.1;
  options.cluster.failures.push_back({.host = "node-2", .at = 0.35});
  options.detection = std::chrono::seconds(2);
  return options;
}

TEST(Simulate, AHostThatFailsEndsTraining) {
  for (const auto& kind : strategies()) {
    for (const Sharing sharing : {Sharing::kMaxMin, Sharing::kPerLink}) {
      SimulationOptions options = failing_options(sharing);
      options.strategy.kind = kind;
      in_child([&] {
        const auto result = run(options);
        ASSERT_TRUE(result->failure.has_value());
        EXPECT_EQ(result->failure->code, base::ErrorCode::kPeerLost);
        EXPECT_NE(result->failure->message.find("host node-2 failed after 0.35 s"),
                  std::string::npos);
        EXPECT_GE(result->virtual_seconds, 2.35);
        EXPECT_LE(result->virtual_seconds, 2.6);
        EXPECT_GE(result->workers[0].steps.size(), 1u);
        EXPECT_LT(result->workers[0].steps.size(), 6u);
      });
    }
  }
}

TEST(Simulate, AHostThatRecoversLetsTrainingGoOnFromTheCheckpoint) {
  for (const int every : {0, 1, 2}) {
    SimulationOptions options = failing_options(every == 1 ? Sharing::kMaxMin : Sharing::kPerLink);
    options.cluster.failures[0].recovers_at = 5;
    options.checkpoint_every = every;
    in_child([&] {
      const auto result = run(options);
      EXPECT_FALSE(result->failure.has_value());
      EXPECT_EQ(result->restarts, 1);
      const std::size_t kept = every == 0 ? 0 : 2;
      for (const WorkerResult& worker : result->workers) {
        ASSERT_EQ(worker.steps.size(), 6u);
        EXPECT_GE(worker.steps[kept].begin, 5);
        EXPECT_LE(worker.steps[kept].begin, 5.2);
        if (kept > 0) {
          EXPECT_LT(worker.steps[kept - 1].end, 0.35);
        }
      }
      EXPECT_EQ(result->repeated_steps, every == 0 ? 8 : 0);
    });
  }
}

TEST(Simulate, WaitingIsThatOfTheStepsThatCount) {
  for (const auto& kind : strategies()) {
    SimulationOptions options = failing_options(Sharing::kPerLink);
    options.strategy.kind = kind;
    const bool recovers = !std::holds_alternative<strategy::StrategySwitch>(kind);
    if (recovers) options.cluster.failures[0].recovers_at = 5;
    in_child([&] {
      const auto result = run(options);
      EXPECT_EQ(result->restarts, recovers ? 1 : 0);
      for (const WorkerResult& worker : result->workers) {
        double waited = 0, all = 0;
        for (const StepTimes& step : worker.steps) {
          waited += step.end - step.computed;
          all += step.end - step.begin;
        }
        EXPECT_GT(worker.exposed_seconds, 0);
        EXPECT_LE(worker.exposed_seconds, waited + 1e-6);
        EXPECT_LE(worker.communication_seconds, 2 * all) << "of two parameters";
      }
    });
  }
}

TEST(Simulate, TheFirstBeginOfAStepOutlivesAFailure) {
  for (const int every : {0, 1}) {
    SimulationOptions options = failing_options(Sharing::kPerLink);
    options.cluster.failures[0].recovers_at = 5;
    options.checkpoint_every = every;
    in_child([&] {
      const auto result = run(options);
      for (const WorkerResult& worker : result->workers) {
        ASSERT_EQ(worker.first_begins.size(), 6u);
        for (const std::size_t lost : {0, 1, 2}) EXPECT_LT(worker.first_begins[lost], 0.35);
        for (const std::size_t later : {3, 4, 5}) {
          EXPECT_EQ(worker.first_begins[later], worker.steps[later].begin);
        }
      }
    });
  }
}

TEST(Simulate, TrainingGoesOnWhenAllHostsThatFailedAreBack) {
  const Failure first{.host = "node-2", .at = 0.35, .recovers_at = 5};
  for (const double at : {0.35, 1.0, 4.9}) {
    const Failure second{.host = "node-3", .at = at, .recovers_at = 20};
    for (const auto& failures : {std::vector{first, second}, std::vector{second, first}}) {
      SimulationOptions options = failing_options(Sharing::kPerLink);
      options.cluster.failures = failures;
      in_child([&] {
        const auto result = run(options);
        EXPECT_FALSE(result->failure.has_value());
        EXPECT_EQ(result->restarts, 1);
        EXPECT_NEAR(result->workers[0].steps[0].begin, 20, 0.2);
      });
    }
  }
}

TEST(Simulate, AHostThatStaysAwayEndsTrainingWheneverItFails) {
  const Failure first{.host = "node-2", .at = 0.35, .recovers_at = 5};
  for (const double at : {0.35, 3.0}) {
    const Failure second{.host = "node-3", .at = at};
    for (const auto& failures : {std::vector{first, second}, std::vector{second, first}}) {
      SimulationOptions options = failing_options(Sharing::kPerLink);
      options.cluster.failures = failures;
      in_child([&] {
        const auto result = run(options);
        ASSERT_TRUE(result->failure.has_value());
        EXPECT_EQ(result->failure->code, base::ErrorCode::kPeerLost);
        EXPECT_NE(result->failure->message.find("host node-3 failed after"), std::string::npos);
        EXPECT_EQ(result->restarts, 0);
      });
    }
  }
}

TEST(Simulate, NobodyMissesAHostWithoutProcesses) {
  for (const bool recovers : {false, true}) {
    SimulationOptions options = failing_options(Sharing::kPerLink);
    Host& idle = options.cluster.hosts.emplace_back();
    idle.name = "idle";
    idle.workers = 0;
    options.cluster.failures[0] = {.host = "idle", .at = 0.1};
    if (recovers) options.cluster.failures[0].recovers_at = 5;
    options.detection = std::chrono::milliseconds(100);
    in_child([&] {
      const auto result = run(options);
      EXPECT_FALSE(result->failure.has_value());
      EXPECT_EQ(result->restarts, 0);
      EXPECT_EQ(result->workers[0].steps.size(), 6u);
    });
  }
}

TEST(Simulate, AFailureAfterTheEndChangesNothing) {
  SimulationOptions options = failing_options(Sharing::kAuto);
  options.cluster.failures[0].at = 1000;
  in_child([&] {
    const auto result = run(options);
    EXPECT_FALSE(result->failure.has_value());
    EXPECT_LT(result->virtual_seconds, 10);
  });
}

TEST(Simulate, AProcessSimulatesOnce) {
  in_child([&] {
    EXPECT_TRUE(run(some_options()).ok());
    const auto again = simulate(some_options());
    ASSERT_FALSE(again.ok());
    EXPECT_EQ(again.error().code, base::ErrorCode::kUnsupported);
  });
}

TEST(Simulate, EndsWhereSecondsAreCoarserThanNanoseconds) {
  in_child([] {
    SimulationOptions options = some_options();
    options.cluster.variability.reset();
    options.workload.forward_seconds = 1e7 + 1e-9;
    options.steps = 3;
    const auto result = run(options);
    ASSERT_TRUE(result.ok()) << result.error().message;
    EXPECT_NEAR(result->virtual_seconds, 3e7, 10);
  });
}

TEST(Simulate, RefusesWhatDoesNotFit) {
  const auto refused = [](const SimulationOptions& options) {
    const auto result = simulate(options);
    return result ? std::string() : result.error().message;
  };
  SimulationOptions options = some_options();
  options.steps = 0;
  EXPECT_EQ(refused(options), "steps must be positive, this is 0");
  options = some_options();
  options.workload.forward_seconds = 1e9;
  options.steps = 10;
  EXPECT_NE(refused(options).find("10 steps would take 1"), std::string::npos) << refused(options);
  EXPECT_NE(refused(options).find("and the virtual clock goes to 9e+09 s"), std::string::npos);
  options = some_options();
  options.workload.parameters.clear();
  EXPECT_NE(refused(options).find("parameters"), std::string::npos);
  options = some_options();
  options.cluster.hosts[2].bandwidth = -1;
  EXPECT_NE(refused(options).find("hosts[2]"), std::string::npos);
  options = some_options();
  strategy::ParameterServer server;
  server.shards = 9;
  options.strategy.kind = server;
  EXPECT_NE(refused(options).find("shards"), std::string::npos);
}

}  // namespace
}  // namespace gearshift::sim::testing
