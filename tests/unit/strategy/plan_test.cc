#include "gearshift/strategy/plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

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

TEST(BucketPlan, AnEmptyParameterHasNoBucketToItself) {
  // Neither behind a parameter that fills more than a bucket, nor in front.
  const auto plan = BucketPlan::make({{"first", {0}, DType::kF32, 0},
                                      {"huge", {5000}, DType::kF32, 0},
                                      {"last", {0}, DType::kF32, 0}},
                                     64);
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(plan->buckets.size(), 1U);
}

TEST(BucketPlan, RefusesWhatCannotBeTrained) {
  EXPECT_FALSE(BucketPlan::make({{"index", {3}, DType::kI64, 0}}, 64).ok());
  EXPECT_FALSE(BucketPlan::make(model(), 0).ok());
}

TEST(BucketPlan, RefusesShapesThatCannotBe) {
  constexpr std::int64_t kHuge = std::int64_t{1} << 40;
  for (const std::vector<std::int64_t>& shape : {std::vector<std::int64_t>{-3},
                                                 {4, -1},
                                                 {0, -1},
                                                 {-2, -2},
                                                 {kHuge, kHuge},
                                                 {kHuge, 1 << 24},
                                                 {1 << 30, 1 << 30, 1 << 30}}) {
    const auto plan =
        BucketPlan::make({{"good", {2, 3}, DType::kF32, 0}, {"bad", shape, DType::kF64, 0}}, 64);
    ASSERT_FALSE(plan.ok()) << testing::PrintToString(shape);
    EXPECT_EQ(plan.error().code, base::ErrorCode::kInvalidArgument);
    EXPECT_NE(plan.error().message.find("'bad'"), std::string::npos) << plan.error().message;
  }
  EXPECT_TRUE(BucketPlan::make({{"empty", {kHuge, 0, kHuge, kHuge}, DType::kF64, 0}}, 64).ok());
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

std::vector<std::size_t> bytes_of_shards(const ps::Layout& layout) {
  std::vector<std::size_t> bytes;
  for (const auto& slices : layout.shards) {
    bytes.push_back(0);
    for (const ps::Slice& slice : slices) bytes.back() += slice.bytes;
  }
  return bytes;
}

bool same(const ps::Layout& a, const ps::Layout& b) {
  if (a.shards.size() != b.shards.size()) return false;
  for (std::size_t k = 0; k < a.shards.size(); ++k) {
    const auto equal = [](const ps::Slice& x, const ps::Slice& y) {
      return x.bucket == y.bucket && x.bucket_offset == y.bucket_offset && x.bytes == y.bytes &&
             x.segments.size() == y.segments.size();
    };
    if (!std::equal(a.shards[k].begin(), a.shards[k].end(), b.shards[k].begin(), b.shards[k].end(),
                    equal)) {
      return false;
    }
  }
  return true;
}

TEST_P(Layouts, EqualWeightsChangeNothing) {
  const auto plan = BucketPlan::make(model(), 8192);
  const std::vector<std::uint32_t> weights(static_cast<std::size_t>(GetParam()), 7);
  EXPECT_TRUE(
      same(make_layout(*plan, GetParam(), kSliceBytes, weights), make_layout(*plan, GetParam())));
}

TEST(WeightedLayout, GivesEveryoneItsShareOfTheModel) {
  std::vector<ParameterSpec> many;
  for (int i = 1; i <= 300; ++i) {
    many.push_back({"p" + std::to_string(i), {17 * i}, DType::kF32, 0});
  }
  const auto plan = BucketPlan::make(many, 16384);
  const std::vector<std::uint32_t> weights = {1000, 100, 0, 700};
  const ps::Layout layout = make_layout(*plan, 4, kSliceBytes, weights);
  const auto bytes = bytes_of_shards(layout);
  const auto total = static_cast<double>(plan->total_bytes());
  for (std::size_t k = 0; k < 4; ++k) {
    EXPECT_NEAR(static_cast<double>(bytes[k]), total * weights[k] / 1800, 64.0 * 4) << k;
  }
  EXPECT_EQ(bytes[2], 0U);
  // Slices of a bucket follow each other, without a gap.
  for (std::uint32_t b = 0; b < plan->buckets.size(); ++b) {
    std::size_t end = 0;
    for (const auto& slices : layout.shards) {
      for (const ps::Slice& slice : slices) {
        if (slice.bucket != b) continue;
        EXPECT_EQ(slice.bucket_offset, end);
        end += slice.bytes;
      }
    }
    EXPECT_EQ(end, plan->buckets[b].bytes);
  }
}

TEST(Layout, CutsPartsIntoSlicesOfAtMostTheGivenSize) {
  const auto plan = BucketPlan::make(model(), 8192);
  for (const std::size_t most : {std::size_t{64}, std::size_t{1000}, std::size_t{4096}}) {
    const ps::Layout layout = make_layout(*plan, 2, most);
    std::size_t sum = 0;
    for (const auto& slices : layout.shards) {
      const ps::Slice* before = nullptr;
      for (const ps::Slice& slice : slices) {
        EXPECT_LE(slice.bytes, most);
        EXPECT_EQ(slice.bytes % 64, 0U);
        if (before != nullptr && before->bucket == slice.bucket) {
          EXPECT_EQ(slice.bucket_offset, before->bucket_offset + before->bytes);
        }
        sum += slice.bytes;
        before = &slice;
      }
    }
    EXPECT_EQ(sum, plan->total_bytes());
  }
}

INSTANTIATE_TEST_SUITE_P(Shards, Layouts, testing::Values(1, 2, 3, 5, 7, 64));

}  // namespace
}  // namespace gearshift::strategy
