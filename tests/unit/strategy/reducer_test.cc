#include "strategy/reducer.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <memory>
#include <optional>
#include <ostream>
#include <utility>
#include <vector>

#include "gearshift/base/scheduler.h"
#include "gearshift/group/connect.h"

namespace gearshift::strategy {
namespace {

constexpr std::size_t kParameters = 5;
constexpr std::size_t kElements = 8;

BucketPlan one_bucket_per_parameter(base::DType dtype, std::size_t count) {
  std::vector<ParameterSpec> parameters;
  for (std::size_t p = 0; p < count; ++p) {
    parameters.push_back({"p" + std::to_string(p), {kElements}, dtype, 0});
  }
  return *BucketPlan::make(std::move(parameters), kElements * base::size_of(dtype));
}

/// How many lanes, and whether the control values have one of their own.
struct Roads {
  int lanes = 1;
  bool control = false;
};
void PrintTo(const Roads& roads, std::ostream* out) {
  *out << roads.lanes << (roads.control ? " lanes and one for control values" : " lanes");
}

/// One rank's reducer. Its gradients are rank + bucket.
class Side {
 public:
  Side(base::Scheduler& scheduler, group::Group& group, const Roads& roads,
       base::DType dtype = base::DType::kF64, std::size_t parameters = kParameters,
       Compression compression = Compression::kNone)
      : scheduler_(scheduler),
        group_(group),
        plan_(one_bucket_per_parameter(dtype, parameters)),
        memory_(std::move(*BucketMemory::create(plan_, 0, {}))),
        comm_(scheduler, "comm", std::make_shared<BusyTime>(scheduler)) {
    std::vector<group::Group> groups;
    for (int lane = 0; lane < roads.lanes; ++lane) {
      groups.push_back(group.with_channel(static_cast<std::uint16_t>(10 + lane)));
    }
    std::optional<group::Group> control;
    if (roads.control) control = group.with_channel(9);
    reducer_ = std::make_unique<Reducer>(
        std::move(groups), std::move(control), plan_, *memory_, comm_,
        AllReduce{collectives::Algorithm::kRecursiveDoubling, compression});
  }

  void begin(double samples = 1) {
    RoundInput input;
    input.samples = samples;
    reducer_->begin(input);
  }
  void close_all() {
    // The last first: it is the order of the plan that counts.
    for (std::size_t b = plan_.buckets.size(); b-- > 0;) {
      auto* gradients = reinterpret_cast<double*>(memory_->gradients(b).data());
      std::fill_n(gradients, kElements, group_.rank().value + static_cast<double>(b));
      reducer_->close_bucket(static_cast<std::uint32_t>(b), {true});
    }
  }
  /// All gradients are zero.
  void close_empty() {
    for (std::size_t b = 0; b < plan_.buckets.size(); ++b) {
      base::zero(memory_->gradients(static_cast<std::uint32_t>(b)));
      reducer_->close_bucket(static_cast<std::uint32_t>(b), {true});
    }
  }
  /// One bucket of float32.
  void close_floats(std::uint32_t bucket) {
    auto* gradients = reinterpret_cast<float*>(memory_->gradients(bucket).data());
    std::fill_n(gradients, kElements, static_cast<float>(group_.rank().value + bucket));
    reducer_->close_bucket(bucket, {true});
  }
  std::vector<float> floats(std::uint32_t bucket) {
    const auto* gradients = reinterpret_cast<const float*>(memory_->gradients(bucket).data());
    return {gradients, gradients + kElements};
  }
  base::Result<RoundResult> end() { return reducer_->end(); }
  /// In the middle of a round: waits for what its lanes have begun.
  void drop() {
    EXPECT_TRUE(comm_.drain().ok());
    reducer_.reset();
  }
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
  BucketPlan plan_;
  std::unique_ptr<BucketMemory> memory_;
  std::unique_ptr<Reducer> reducer_;
  CommTask comm_;
};

class Lanes : public testing::TestWithParam<Roads> {
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
    const auto expected = before + 1 + static_cast<std::uint64_t>(GetParam().lanes);
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
  one.sent(1 + static_cast<std::uint64_t>(GetParam().lanes));
  expect_lost(one);
}

TEST_P(Lanes, DoNotWaitForAnExchangeThatFailed) {
  Side one(*scheduler_, group(0), GetParam());
  one.begin();
  one.close_all();
  one.sent(1);
  expect_lost(one);
}

/// A round of two ranks, with so many samples each.
void run_round(Side& one, Side& other, double samples, double others) {
  one.begin(samples);
  other.begin(others);
  one.close_all();
  other.close_all();
  for (Side* side : {&one, &other}) {
    const auto result = side->end();
    ASSERT_TRUE(result.ok()) << result.error().to_string();
    EXPECT_EQ(result->samples, samples + others);
    const double total = samples + others;
    for (std::size_t b = 0; b < side->buckets(); ++b) {
      const double mean = total == 0 ? 0 : others / total + static_cast<double>(b);
      EXPECT_NEAR(side->gradient(b), mean, 1e-14) << samples << " and " << others;
    }
  }
}

TEST_P(Lanes, FindTheMeanWhateverTheRoundBeforeHad) {
  Side one(*scheduler_, group(0), GetParam());
  Side other(*scheduler_, group(1), GetParam());
  for (const auto& [samples, others] : {std::pair{1.0, 1.0},
                                        {1.0, 1.0},
                                        {3.0, 1.0},
                                        {1.0, 3.0},
                                        {0.0, 5.0},
                                        {1e6, 0.0},
                                        {0.0, 0.0},
                                        {2.0, 0.125},
                                        {1.0, 7.0}}) {
    run_round(one, other, samples, others);
  }
}

TEST_P(Lanes, DoNotWaitForControlValuesOfTheirOwnLane) {
  for (const base::DType dtype : {base::DType::kF64, base::DType::kBF16}) {
    Side one(*scheduler_, group(0), GetParam(), dtype);
    Side other(*scheduler_, group(1), GetParam(), dtype);
    one.begin();
    other.begin();
    one.close_empty();
    other.close_empty();
    ASSERT_TRUE(one.end().ok());
    ASSERT_TRUE(other.end().ok());
    const std::uint64_t before = group(0).traffic().messages_sent;
    one.begin();
    one.close_empty();
    const bool early = GetParam().control && dtype == base::DType::kF64;
    const auto lanes = static_cast<std::uint64_t>(GetParam().lanes);
    EXPECT_EQ(one.sent(before + 1 + (early ? lanes : 0)), before + 1 + (early ? lanes : 0));
    scheduler_->sleep_for(std::chrono::milliseconds(20));
    EXPECT_EQ(one.sent(0), before + 1 + (early ? lanes : 0)) << "and no more";
    other.begin();
    other.close_empty();
    ASSERT_TRUE(one.end().ok());
    ASSERT_TRUE(other.end().ok());
  }
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

/// A training that ends in the middle of a round waits for the buckets that are on their way.
TEST(Reducer, KeepsCompressedBucketsUntilTheirLaneIsThrough) {
  const auto scheduler = base::make_os_scheduler();
  auto groups = group::make_local_groups(*scheduler, 2, std::chrono::seconds(20));
  ASSERT_TRUE(groups.ok());
  std::vector<std::unique_ptr<Side>> sides;
  for (const auto& group : *groups) {
    sides.push_back(std::make_unique<Side>(*scheduler, *group, Roads{2, true}, base::DType::kF32, 2,
                                           Compression::kBf16));
    sides.back()->begin();
    sides.back()->close_floats(0);
  }
  sides[0]->close_floats(1);
  const auto ends = scheduler->spawn("ends", [&] { sides[0]->drop(); });
  scheduler->sleep_for(std::chrono::milliseconds(100));
  sides[1]->close_floats(1);
  ends->join();
  EXPECT_TRUE(sides[1]->end().ok());
  for (const auto& side : sides) EXPECT_EQ(side->floats(1), std::vector<float>(kElements, 1.5F));
}

INSTANTIATE_TEST_SUITE_P(Number, Lanes,
                         testing::Values(Roads{1}, Roads{2}, Roads{3}, Roads{1, true},
                                         Roads{2, true}));

}  // namespace
}  // namespace gearshift::strategy
