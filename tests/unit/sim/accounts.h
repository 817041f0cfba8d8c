#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "clusters.h"
#include "gearshift/sim/simulate.h"
#include "in_child.h"

namespace gearshift::sim::testing {

using Kind = decltype(strategy::Strategy::kind);

/// What a child process says of a result: counts, which are to be equal, then times.
struct Account {
  std::int64_t simulated = 0, first = 0, last = 0, period = 0;
  bool estimated = false;
  double half_width = 0;
  std::string counts;
  std::vector<double> times;
};

inline void write(const SimulationResult& result, std::FILE* out) {
  const SkippedSteps skipped = result.skipped.value_or(SkippedSteps{0, 0, 0});
  std::fprintf(
      out, "%lld %lld %lld %lld %d %.17g\n", static_cast<long long>(result.simulated_steps),
      static_cast<long long>(skipped.first), static_cast<long long>(skipped.last),
      static_cast<long long>(skipped.period), skipped.estimated ? 1 : 0, skipped.half_width);
  std::ostringstream counts;
  counts << result.messages;
  for (const WorkerResult& worker : result.workers) {
    counts << " | " << worker.steps.size() << ' ' << worker.bytes_sent << ' '
           << worker.messages_sent;
    for (const auto& [lag, count] : worker.staleness) counts << ' ' << lag << ':' << count;
  }
  counts.precision(17);
  for (const LinkUse& link : result.links) counts << " | " << link.name << ' ' << link.bytes;
  std::fprintf(out, "%s\n%.17g", counts.str().c_str(), result.virtual_seconds);
  for (const WorkerResult& worker : result.workers) {
    std::fprintf(out, " %.17g %.17g", worker.exposed_seconds, worker.communication_seconds);
    for (const StepTimes& step : worker.steps) {
      std::fprintf(out, " %.17g %.17g %.17g", step.begin, step.computed, step.end);
    }
  }
}

inline Account read(const std::string& file) {
  std::ifstream in(file);
  Account account;
  in >> account.simulated >> account.first >> account.last >> account.period;
  in >> account.estimated >> account.half_width >> std::ws;
  std::getline(in, account.counts);
  for (double time = 0; in >> time;) account.times.push_back(time);
  return account;
}

inline Account account_of(SimulationOptions options, bool every_step) {
  options.every_step = every_step;
  const std::string file = ::testing::TempDir() + "gearshift-steady." + std::to_string(::getpid());
  in_child([&] {
    const auto result = simulate(options);
    ASSERT_TRUE(result.ok()) << result.error().to_string();
    std::FILE* out = std::fopen(file.c_str(), "w");
    write(*result, out);
    std::fclose(out);
  });
  return read(file);
}

/// Machines and a network as they are, and seven parameters that become ready one after the other.
inline SimulationOptions options_for(int workers, Kind kind, int servers = 0) {
  SimulationOptions options;
  options.cluster = ideal_cluster(workers, 1.25e9, servers);
  for (Host& host : options.cluster.hosts) {
    host.latency = 25e-6;
    host.model = HostModel{};
  }
  options.workload = one_parameter(1'000'003);
  for (int p = 0; p < 6; ++p) {
    options.workload.parameters.push_back(
        {"b" + std::to_string(p), {1'003'000}, base::DType::kF32, 0.004 + 0.002 * p});
  }
  options.strategy.kind = std::move(kind);
  options.sharing = Sharing::kPerLink;
  options.steps = 60;
  options.steady_tolerance = 0;  // what repeats exactly, unless a test asks for estimates
  return options;
}

inline Kind server(ps::Consistency consistency, int shards = 0) {
  strategy::ParameterServer server;
  server.consistency = consistency;
  server.shards = shards;
  return server;
}

/// The second host computes at half speed.
inline SimulationOptions uneven(SimulationOptions options) {
  options.cluster.hosts[1].speed = 0.5;
  return options;
}

/// A share of the model over links that are as much slower: the same times with fewer messages.
inline SimulationOptions scaled_down(SimulationOptions options, std::int64_t by) {
  for (auto& parameter : options.workload.parameters) {
    for (auto& elements : parameter.shape) elements = elements / by + elements % by;
  }
  for (Host& host : options.cluster.hosts) host.bandwidth /= static_cast<double>(by);
  return options;
}

/// Computation takes most of a step.
inline SimulationOptions slow_model(SimulationOptions options) {
  options.workload.forward_seconds = 0.2;
  options.workload.backward_seconds = 0.4;
  return options;
}

inline void expect_all_simulated(const SimulationOptions& options) {
  EXPECT_EQ(account_of(options, false).simulated, options.steps);
}

}  // namespace gearshift::sim::testing
