#include "gearshift/strategy/plan.h"

#include <gtest/gtest.h>

namespace gearshift::strategy {
namespace {

using base::DType;

std::vector<ParameterSpec> model() {
  return {{"front", {1000}, DType::kF32, 0}, {"half", {33}, DType::kBF16, 0},
          {"empty", {0, 4}, DType::kF32, 0}, {"middle", {7, 3}, DType::kF32, 1},
          {"huge", {5000}, DType::kF32, 1},  {"back", {}, DType::kF32, 0}};
}

TEST(BucketPlan, FillsFromTheBackAndSeparatesDtypes) {
  const auto plan = BucketPlan::make(model(), 8192);
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(plan->bucket_of[5], 0U);
  for (const Bucket& bucket : plan->buckets) {
    EXPECT_EQ(bucket.bytes % 64, 0U);
    std::size_t end = 0;
    for (const Bucket::Entry& entry : bucket.entries) {
      EXPECT_EQ(plan->parameters[entry.parameter].dtype, bucket.dtype);
      EXPECT_EQ(entry.offset % 64, 0U);
      EXPECT_GE(entry.offset, end);
      end =
          entry.offset + plan->parameters[entry.parameter].elements() * base::size_of(bucket.dtype);
    }
    EXPECT_LE(end, bucket.bytes);
    if (bucket.entries.size() > 1) {
      EXPECT_LE(bucket.bytes, 8192U);
    }
  }
}

TEST(BucketPlan, RefusesWhatCannotBeTrained) {
  EXPECT_FALSE(BucketPlan::make({{"index", {3}, DType::kI64, 0}}, 64).ok());
  EXPECT_FALSE(BucketPlan::make(model(), 0).ok());
}

TEST(BucketPlan, ModelWithoutParameters) {
  const auto plan = BucketPlan::make({}, 64);
  ASSERT_TRUE(plan.ok());
  EXPECT_TRUE(plan->buckets.empty());
  EXPECT_EQ(make_layout(*plan, 3).shards.size(), 3U);
}

class Layouts : public testing::TestWithParam<int> {};

TEST_P(Layouts, CoverEveryElementOnceAndBalance) {
  const auto plan = BucketPlan::make(model(), 8192);
  const ps::Layout layout = make_layout(*plan, GetParam());
  std::vector<std::vector<int>> seen;
  for (const ParameterSpec& p : plan->parameters) seen.emplace_back(p.elements(), 0);
  std::size_t least = SIZE_MAX, most = 0, sum = 0;
  for (const auto& slices : layout.shards) {
    std::size_t bytes = 0;
    for (const ps::Slice& slice : slices) {
      bytes += slice.bytes;
      EXPECT_EQ(slice.bucket_offset % 64, 0U);
      for (const ps::Segment& segment : slice.segments) {
        EXPECT_LE((segment.slice_offset + segment.size) * base::size_of(slice.dtype), slice.bytes);
        EXPECT_EQ(segment.param_group, plan->parameters[segment.parameter].param_group);
        for (std::size_t i = 0; i < segment.size; ++i) {
          ++seen[segment.parameter][segment.parameter_offset + i];
        }
      }
    }
    least = std::min(least, bytes);
    most = std::max(most, bytes);
    sum += bytes;
  }
  for (const auto& parameter : seen) {
    for (const int count : parameter) EXPECT_EQ(count, 1);
  }
  EXPECT_EQ(sum, plan->total_bytes());
  EXPECT_LE(most - least, 64U);
}

INSTANTIATE_TEST_SUITE_P(Shards, Layouts, testing::Values(1, 2, 3, 5, 7, 64));

}  // namespace
}  // namespace gearshift::strategy
