#include "strategy/reducer.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <memory>
#include <vector>

#include "gearshift/base/scheduler.h"
#include "gearshift/group/connect.h"

namespace gearshift::strategy {
namespace {

constexpr std::size_t kParameters = 5;
constexpr std::size_t kElements = 8;

BucketPlan one_bucket_per_parameter() {
  std::vector<ParameterSpec> parameters;
  for (std::size_t p = 0; p < kParameters; ++p) {
    parameters.push_back({"p" + std::to_string(p), {kElements}, base::DType::kF64, 0});
  }
  return *BucketPlan::make(std::move(parameters), kElements * sizeof(double));
}

/// One rank's reducer. Its gradients are rank + bucket.
class Side {
 public:
  Side(base::Scheduler& scheduler, group::Group& group, int lanes)
      : scheduler_(scheduler),
        group_(group),
        memory_(std::move(*BucketMemory::create(plan_, 0, {}))),
        comm_(scheduler, "comm", std::make_shared<BusyTime>(scheduler)) {
    std::vector<group::Group> groups;
    for (int lane = 0; lane < lanes; ++lane) {
      groups.push_back(group.with_channel(static_cast<std::uint16_t>(10 + lane)));
    }
    reducer_ = std::make_unique<Reducer>(std::move(groups), plan_, *memory_, comm_,
                                         collectives::Algorithm::kRecursiveDoubling);
  }

  void begin() { reducer_->begin({}); }
  void close_all() {
    // The last first: it is the order of the plan that counts.
    for (std::size_t b = plan_.buckets.size(); b-- > 0;) {
      auto* gradients = reinterpret_cast<double*>(memory_->gradients(b).data());
      std::fill_n(gradients, kElements, group_.rank().value + static_cast<double>(b));
      reducer_->close_bucket(static_cast<std::uint32_t>(b), {true});
    }
  }
  base::Result<RoundResult> end() { return reducer_->end(); }
  double gradient(std::size_t bucket) {
    return *reinterpret_cast<const double*>(memory_->gradients(bucket).data());
  }
  std::size_t buckets() const { return plan_.buckets.size(); }
  double busy_seconds() const { return comm_.busy()->seconds(); }

  /// Waits until so many messages have been sent; what was sent by then.
  std::uint64_t sent(std::uint64_t wanted) {
    const base::TimePoint deadline = scheduler_.after(std::chrono::seconds(20));
    while (group_.traffic().messages_sent < wanted && scheduler_.now() < deadline) {
      scheduler_.sleep_for(std::chrono::milliseconds(1));
    }
    return group_.traffic().messages_sent;
  }

 private:
  base::Scheduler& scheduler_;
  group::Group& group_;
  BucketPlan plan_ = one_bucket_per_parameter();
  std::unique_ptr<BucketMemory> memory_;
  std::unique_ptr<Reducer> reducer_;
  CommTask comm_;
};

class Lanes : public testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    auto groups = group::make_local_groups(*scheduler_, 2, std::chrono::seconds(20));
    ASSERT_TRUE(groups.ok());
    groups_ = std::move(*groups);
  }
  group::Group& group(std::size_t rank) { return *groups_[rank]; }
  /// Rank 1 leaves; rank 0's round must end with that.
  void expect_lost(Side& side) {
    group(1).abort({base::ErrorCode::kAborted, "enough"});
    const auto result = side.end();
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.error().code, base::ErrorCode::kPeerLost);
  }

  std::unique_ptr<base::Scheduler> scheduler_ = base::make_os_scheduler();
  std::vector<std::unique_ptr<group::Group>> groups_;
};

TEST_P(Lanes, HaveABucketInFlightEach) {
  Side ahead(*scheduler_, group(0), GetParam());
  Side behind(*scheduler_, group(1), GetParam());
  for (int round = 0; round < 3; ++round) {
    const std::uint64_t before = group(0).traffic().messages_sent;
    ahead.begin();
    behind.begin();
    ahead.close_all();
    // The control values, and a bucket per lane, whose answer the other rank owes.
    const auto expected = before + 1 + static_cast<std::uint64_t>(GetParam());
    EXPECT_EQ(ahead.sent(expected), expected);
    behind.close_all();
    for (Side* side : {&ahead, &behind}) {
      const auto result = side->end();
      ASSERT_TRUE(result.ok()) << result.error().to_string();
      EXPECT_EQ(result->samples, 2);
      for (std::size_t b = 0; b < side->buckets(); ++b) {
        EXPECT_EQ(side->gradient(b), 0.5 + static_cast<double>(b)) << "bucket " << b;
      }
    }
  }
}

TEST_P(Lanes, EndWithTheErrorThatStoppedThem) {
  Side one(*scheduler_, group(0), GetParam());
  Side other(*scheduler_, group(1), GetParam());
  one.begin();
  other.begin();
  one.close_all();
  one.sent(1 + static_cast<std::uint64_t>(GetParam()));
  expect_lost(one);
}

TEST_P(Lanes, DoNotWaitForAnExchangeThatFailed) {
  Side one(*scheduler_, group(0), GetParam());
  one.begin();
  one.close_all();
  one.sent(1);
  expect_lost(one);
}

TEST_P(Lanes, CountTheTimeOfAllAtOnceOnce) {
  Side one(*scheduler_, group(0), GetParam());
  Side other(*scheduler_, group(1), GetParam());
  const base::TimePoint begin = scheduler_->now();
  one.begin();
  other.begin();
  one.close_all();
  scheduler_->sleep_for(std::chrono::milliseconds(20));
  other.close_all();
  ASSERT_TRUE(one.end().ok());
  ASSERT_TRUE(other.end().ok());
  EXPECT_GT(one.busy_seconds(), 0);
  EXPECT_LE(one.busy_seconds(), base::to_seconds(scheduler_->now() - begin));
}

INSTANTIATE_TEST_SUITE_P(Number, Lanes, testing::Values(1, 2, 3));

}  // namespace
}  // namespace gearshift::strategy
