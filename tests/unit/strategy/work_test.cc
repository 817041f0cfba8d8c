// What a virtual clock is told of the work that strategies, servers and collectives do.

#include <gtest/gtest.h>

#include "quiet_job.h"
#include "work_scheduler.h"

namespace gearshift::strategy {
namespace {

using base::Work;
using quiet::Job;

constexpr std::size_t kWorkElements = 100'000;
constexpr std::size_t kBytes = kWorkElements * sizeof(float);
constexpr std::size_t kWorkers = 4;
constexpr std::size_t kSteps = 8;
/// Replies, commits and control values: a few hundred bytes each.
constexpr std::size_t kSmall = 2000 * kWorkers * kSteps;

Job job_of(decltype(Strategy::kind) kind) {
  Job job{.workers = kWorkers, .steps = kSteps};
  job.strategy.kind = std::move(kind);
  job.strategy.bucket_bytes = kBytes;
  job.parameters = {{"large", {kWorkElements}}, {"small", {1}}};
  return job;
}

void expect_about(std::size_t bytes, std::size_t expected) {
  EXPECT_GE(bytes, expected);
  EXPECT_LE(bytes, expected + kSmall);
}

class WorkTest : public testing::TestWithParam<bool> {
 protected:
  void run(const Job& job) { quiet::run_on(clock_, job, GetParam()); }
  WorkScheduler clock_;
};

TEST_P(WorkTest, AllReduceCombines) {
  run(job_of(AllReduce{collectives::Algorithm::kRing}));
  expect_about(clock_.bytes(Work::kCombine), kSteps * (kWorkers - 1) * kBytes);
  EXPECT_EQ(clock_.bytes(Work::kUpdate), 0U);
  EXPECT_EQ(clock_.bytes(Work::kCopy), 0U);
}

TEST_P(WorkTest, RecursiveDoublingCombinesMore) {
  run(job_of(AllReduce{collectives::Algorithm::kRecursiveDoubling}));
  expect_about(clock_.bytes(Work::kCombine), kSteps * kWorkers * 2 * kBytes);
}

TEST_P(WorkTest, ShardsInWorkersCombineUpdateAndTalkToTheirOwnWorker) {
  for (const bool clips : {false, true}) {
    WorkScheduler clock;
    Job job = job_of(ParameterServer{});
    job.clip_norm = clips ? 1 : 0;
    quiet::run_on(clock, job, GetParam());
    expect_about(clock.bytes(Work::kCombine), kSteps * (kWorkers - 1) * kBytes);
    expect_about(clock.bytes(Work::kUpdate), kSteps * kBytes);
    // A quarter of the model is copied from a shard to its own worker, which lends its gradients;
    // shards begin with a copy.
    const std::size_t least = (kSteps + 1) * kBytes;
    EXPECT_GE(clock.bytes(Work::kCopy), least);
    EXPECT_LE(clock.bytes(Work::kCopy), least + kSteps * kBytes + 10 * kSmall)
        << "no more than one copy of a slice that is being sent, for each update";
  }
}

TEST_P(WorkTest, AsynchronousServersApplyEveryPush) {
  Job job = job_of(ParameterServer{ps::Consistency::asp()});
  job.servers = 2;
  run(job);
  EXPECT_EQ(clock_.bytes(Work::kCombine), 0U);
  expect_about(clock_.bytes(Work::kUpdate), kSteps * kWorkers * kBytes);
}

TEST_P(WorkTest, ASwitchCopiesParametersAndState) {
  run(job_of(StrategySwitch{AllReduce{}, ParameterServer{}, at_step(4), nullptr}));
  expect_about(clock_.bytes(Work::kUpdate), 4 * kBytes);
  // The model and its momentum, besides what the four steps under the server copy.
  EXPECT_GE(clock_.bytes(Work::kCopy), (2 + 4) * kBytes);
}

INSTANTIATE_TEST_SUITE_P(RealAndPhantom, WorkTest, testing::Bool(),
                         [](const auto& p) { return p.param ? "Phantom" : "Real"; });

}  // namespace
}  // namespace gearshift::strategy
