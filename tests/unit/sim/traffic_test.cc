// What the algorithms send on a simulated network is what they send in reality, whose formulas the
// tests of the collectives assert: as many messages, as many bytes, on every rank.

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <vector>

#include "clusters.h"
#include "gearshift/collectives/collectives.h"
#include "gearshift/group/connect.h"
#include "gearshift/strategy/local_optimizer.h"
#include "gearshift/strategy/plan.h"
#include "in_child.h"
#include "sim/job.h"

namespace gearshift::sim::testing {
namespace {

/// What one rank sends, in messages and bytes: all that is sent is received, too.
using Counts = std::vector<std::uint64_t>;

Counts sent_between(const transport::Traffic& before, const transport::Traffic& after) {
  return {after.messages_sent - before.messages_sent, after.bytes_sent - before.bytes_sent};
}

/// What one rank does; `workers` is set.
using Work = std::function<base::Status(strategy::Environment)>;

base::Status counted(strategy::Environment environment, const Work& work, Counts& counts) {
  std::vector<base::Rank> ranks;
  for (int r = 0; r < environment.workers_count; ++r) ranks.emplace_back(r);
  group::Group workers = environment.world->subgroup(ranks, 1);
  environment.workers = &workers;
  const transport::Traffic before = environment.world->traffic();
  const base::Status status = work(environment);
  counts = sent_between(before, environment.world->traffic());
  return status;
}

std::vector<Counts> simulated(int size, const Work& work) {
  std::vector<Counts> counts(static_cast<std::size_t>(size));
  const Cluster cluster = ideal_cluster(size);
  auto job = Job::create(cluster, std::chrono::hours(1), kStack);
  EXPECT_TRUE(job.ok());
  const base::Status status = (*job)->run([&](int rank, strategy::Environment environment) {
    return counted(environment, work, counts[static_cast<std::size_t>(rank)]);
  });
  EXPECT_TRUE(status.ok()) << status.error().to_string();
  return counts;
}

std::vector<Counts> real(int size, const Work& work) {
  std::vector<Counts> counts(static_cast<std::size_t>(size));
  const auto scheduler = base::make_os_scheduler();
  auto groups = group::make_local_groups(*scheduler, size, std::chrono::seconds(60));
  EXPECT_TRUE(groups.ok());
  std::vector<int> hosts;
  for (int r = 0; r < size; ++r) hosts.push_back(r);
  // The speeds decide about algorithms: those of the simulated links.
  group::LinkSpeeds speeds;
  speeds.local = {0, 1e-15};
  speeds.remote = {0, 1e-9};
  speeds.reduce_seconds_per_byte = 1e-15;
  speeds.measured = true;
  const auto topology = std::make_shared<const group::Topology>(hosts, speeds);
  std::vector<std::unique_ptr<base::Task>> tasks;
  for (int r = 0; r < size; ++r) {
    tasks.push_back(scheduler->spawn("rank", [&, r] {
      strategy::Environment environment;
      environment.world = (*groups)[static_cast<std::size_t>(r)].get();
      environment.world->set_topology(topology);
      environment.workers_count = size;
      const base::Status status = counted(environment, work, counts[static_cast<std::size_t>(r)]);
      EXPECT_TRUE(status.ok()) << status.error().to_string();
    }));
  }
  for (auto& task : tasks) task->join();
  return counts;
}

void expect_equal_traffic(int size, const Work& work) {
  in_child([&] {
    const auto here = real(size, work);
    const auto there = simulated(size, work);
    for (std::size_t r = 0; r < here.size(); ++r) EXPECT_EQ(here[r], there[r]) << "rank " << r;
  });
}

class Traffic : public ::testing::TestWithParam<int> {
 protected:
  int n() const { return GetParam(); }
};

TEST_P(Traffic, OfAllReduces) {
  using collectives::Algorithm;
  for (const Algorithm algorithm : {Algorithm::kRing, Algorithm::kRecursiveDoubling,
                                    Algorithm::kRabenseifner, Algorithm::kTree}) {
    for (const std::size_t bytes : {std::size_t{4000}, std::size_t{2'000'036}}) {
      expect_equal_traffic(n(), [&](strategy::Environment environment) {
        const base::Bytes data(static_cast<std::byte*>(nullptr), bytes);
        return collectives::all_reduce(*environment.workers, data, base::DType::kF32,
                                       base::ReduceOp::kSum, {.algorithm = algorithm});
      });
    }
  }
}

TEST_P(Traffic, OfTheOtherCollectives) {
  expect_equal_traffic(n(), [&](strategy::Environment environment) -> base::Status {
    group::Group& group = *environment.workers;
    const std::size_t part = 40'004;
    const std::size_t whole = part * static_cast<std::size_t>(n());
    const auto phantom = [](std::size_t bytes) {
      return base::Bytes(static_cast<std::byte*>(nullptr), bytes);
    };
    GEARSHIFT_RETURN_IF_ERROR(collectives::reduce_scatter(group, phantom(whole), phantom(part),
                                                          base::DType::kF32, base::ReduceOp::kSum));
    GEARSHIFT_RETURN_IF_ERROR(collectives::all_gather(group, phantom(whole), base::DType::kF32));
    GEARSHIFT_RETURN_IF_ERROR(collectives::broadcast(group, phantom(whole), base::Rank(1)));
    return collectives::all_to_all(group, phantom(whole), phantom(whole));
  });
}

/// The root's interface takes 14 s for all; each link moves all the time.
TEST(RootedTraffic, IsLongerThanTheTimeoutThatEachLinkKeeps) {
  const std::size_t block = 2'000'000'000;
  const int size = 8;
  const auto phantom = [](std::size_t bytes) {
    return base::Bytes(static_cast<std::byte*>(nullptr), bytes);
  };
  in_child([&] {
    const Cluster cluster = ideal_cluster(size);
    auto job = Job::create(cluster, std::chrono::seconds(2), kStack);
    ASSERT_TRUE(job.ok());
    const auto work = [&](int rank, strategy::Environment environment) -> base::Status {
      group::Group& group = *environment.world;
      const base::Bytes all = phantom(rank == 3 ? size * block : 0);
      GEARSHIFT_RETURN_IF_ERROR(collectives::scatter(group, all, phantom(block), base::Rank(3)));
      return collectives::gather(group, phantom(block), all, base::Rank(3));
    };
    const base::Status status = (*job)->run(work);
    EXPECT_TRUE(status.ok()) << status.error().to_string();
  });
}

constexpr std::size_t kBucket = 1 << 18;

/// 1.2 MB in two parameters.
std::vector<strategy::ParameterSpec> model() {
  return {{"weight", {300, 1001}, base::DType::kF32, 0}, {"bias", {1001}, base::DType::kF32, 0}};
}

strategy::Strategy server_strategy(int shards) {
  strategy::ParameterServer server;
  server.shards = shards;
  strategy::Strategy strategy;
  strategy.kind = server;
  return strategy;
}

/// Some steps of a worker.
base::Status push_and_pull(strategy::Environment environment, const strategy::Strategy& strategy,
                           int steps) {
  strategy::ReplicaOptions options;
  options.parameters = model();
  options.strategy = strategy;
  options.strategy.bucket_bytes = kBucket;
  options.optimizer = ps::OptimizerSpec{"sgd", {"lr"}, 1};
  options.phantom = true;
  GEARSHIFT_ASSIGN_OR_RETURN(
      const auto optimizer,
      strategy::LocalOptimizer::create(options.parameters, *options.optimizer, true));
  options.bridge = optimizer.get();
  GEARSHIFT_ASSIGN_OR_RETURN(const auto replica,
                             strategy::Replica::create(environment, std::move(options)));
  GEARSHIFT_RETURN_IF_ERROR(replica->start());
  for (int step = 0; step < steps; ++step) {
    GEARSHIFT_RETURN_IF_ERROR(replica->backward_begin(8));
    GEARSHIFT_ASSIGN_OR_RETURN(const auto present, replica->backward_end({true, true}, true));
    static_cast<void>(present);
    strategy::StepInput input;
    input.hypers = {0.1};
    GEARSHIFT_ASSIGN_OR_RETURN(const auto report, replica->step(input));
    static_cast<void>(report);
  }
  return replica->stop();
}

TEST_P(Traffic, OfPushAndPull) {
  for (const int shards : {1, 2, n()}) {
    expect_equal_traffic(n(), [&](strategy::Environment environment) {
      return push_and_pull(environment, server_strategy(shards), 2);
    });
  }
}

/// Two rounds, of which the second comes early.
TEST_P(Traffic, OfLocalSgd) {
  for (const auto compression : {strategy::Compression::kNone, strategy::Compression::kBf16}) {
    strategy::Strategy strategy;
    strategy.kind = strategy::LocalSgd{.every = 3, .compression = compression};
    strategy.total_steps = 5;
    expect_equal_traffic(n(), [&](strategy::Environment environment) {
      return push_and_pull(environment, strategy, 5);
    });
  }
}

/// What a rank sends in a step, by the formula of ps/client.h.
Counts step_formula(int rank, int workers, const ps::Layout& layout) {
  const auto slices = [&](int k) { return layout.shards[static_cast<std::size_t>(k)]; };
  const auto bytes = [&](int k) {
    std::uint64_t sum = 0;
    for (const ps::Slice& slice : slices(k)) sum += slice.bytes;
    return sum;
  };
  constexpr std::uint64_t kHead = 25, kNumber = 8, kReply = 40, kHypers = 1;
  const std::uint64_t commit = 81 + (model().size() + 7) / 8;
  Counts counts{0, 0};
  for (int k = 0; k < static_cast<int>(layout.shards.size()); ++k) {
    if (k == rank) continue;
    const std::uint64_t messages = slices(k).size() + 1;
    counts[0] += messages;
    counts[1] += bytes(k) + kHead * messages + commit + kNumber * (slices(k).size() + kHypers);
  }
  if (rank < static_cast<int>(layout.shards.size())) {
    const auto others = static_cast<std::uint64_t>(workers - 1);
    counts[0] += others * (slices(rank).size() + 1);
    counts[1] += others * (bytes(rank) + kReply);
  }
  return counts;
}

/// What the third step adds to two.
TEST_P(Traffic, OfAPushAndAPullIsWhatTheFormulaSays) {
  const auto plan = strategy::BucketPlan::make(model(), kBucket);
  ASSERT_TRUE(plan.ok());
  for (const int shards : {1, 2, n()}) {
    const ps::Layout layout = strategy::make_layout(*plan, shards);
    in_child([&] {
      const auto sent = [&](int steps) {
        return real(n(), [&](strategy::Environment environment) {
          return push_and_pull(environment, server_strategy(shards), steps);
        });
      };
      const auto two = sent(2), three = sent(3);
      for (int r = 0; r < n(); ++r) {
        const auto i = static_cast<std::size_t>(r);
        const Counts step{three[i][0] - two[i][0], three[i][1] - two[i][1]};
        EXPECT_EQ(step, step_formula(r, n(), layout)) << "rank " << r << " of " << n();
      }
    });
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, Traffic,
                         ::testing::Values(2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 64));

}  // namespace
}  // namespace gearshift::sim::testing
