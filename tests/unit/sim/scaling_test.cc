// What a simulation of many workers needs grows as the job does, and not with its square.

#include <gtest/gtest.h>
#include <sys/resource.h>

#include "clusters.h"
#include "gearshift/collectives/collectives.h"
#include "gearshift/sim/simulate.h"
#include "in_child.h"

namespace gearshift::sim::testing {
namespace {

constexpr int kWorkers = 128;
constexpr std::size_t kBucket = std::size_t{4} << 20;
constexpr int kBuckets = 4;

SimulationOptions many_workers() {
  SimulationOptions options;
  options.cluster = ideal_cluster(kWorkers);
  options.workload = one_parameter(1);
  options.workload.parameters.clear();
  for (int p = 0; p < kBuckets; ++p) {
    options.workload.parameters.push_back(
        {"p" + std::to_string(p), {kBucket / 4}, base::DType::kF32, 0.020});
  }
  options.steps = 1;
  options.strategy.bucket_bytes = kBucket;
  return options;
}

/// Megabytes that this process had at most, beyond those of its parent.
long peak_megabytes(long before) {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss / 1024 - before;
}

/// Messages of one step per worker, and memory in all.
void expect_cost(const SimulationOptions& options, double least, double most, long megabytes) {
  in_child([&] {
    const long before = peak_megabytes(0);
    const auto result = simulate(options);
    ASSERT_TRUE(result.ok()) << result.error().to_string();
    std::uint64_t sent = 0;
    for (const WorkerResult& worker : result->workers) sent += worker.messages_sent;
    EXPECT_GE(static_cast<double>(sent) / kWorkers, least);
    EXPECT_LE(static_cast<double>(sent) / kWorkers, most);
    // What precedes training (the model goes to all workers) is less than two steps.
    EXPECT_LE(result->messages, 3 * sent);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    EXPECT_LE(peak_megabytes(before), megabytes);
#else
    static_cast<void>(megabytes);
#endif
  });
}

TEST(Scaling, AllReduceByRing) {
  SimulationOptions options = many_workers();
  options.strategy.kind = strategy::AllReduce{collectives::Algorithm::kRing};
  const double messages = kBuckets * 2.0 * (kWorkers - 1);
  expect_cost(options, messages, messages * 1.1, 100);
}

TEST(Scaling, AllReduceByRabenseifner) {
  SimulationOptions options = many_workers();
  options.strategy.kind = strategy::AllReduce{collectives::Algorithm::kRabenseifner};
  // The presence of gradients makes a bucket a little larger than 4 MiB, hence 9 segments, 5, 3, …
  const double messages = kBuckets * 2.0 * (9 + 5 + 3 + 2 + 1 + 1 + 1);
  expect_cost(options, 0.8 * messages, messages * 1.1, 100);
}

TEST(Scaling, AllReduceByTrees) {
  SimulationOptions options = many_workers();
  options.strategy.kind = strategy::AllReduce{collectives::Algorithm::kTree};
  const double messages = kBuckets * 2.0 * 66;  // packets of 64 KiB, an even number
  expect_cost(options, 0.95 * messages, messages * 1.1, 100);
}

/// A message for each bucket and shard, there and back; half of them are the workers'.
TEST(Scaling, ParameterServersInManyWorkers) {
  SimulationOptions options = many_workers();
  strategy::ParameterServer server;
  server.shards = 32;
  options.strategy.kind = server;
  const double messages = kBuckets * 32.0 * (1 + 1);
  expect_cost(options, 0.9 * messages, 1.8 * messages, 200);
}

}  // namespace
}  // namespace gearshift::sim::testing
