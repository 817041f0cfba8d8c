#include "strategy/memory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

namespace gearshift::strategy {
namespace {

BucketPlan two_buckets() {
  return *BucketPlan::make({{"a", {1000}, base::DType::kF32, 0}, {"b", {7}, base::DType::kF32, 0}},
                           4000);
}

bool all_zero(base::Bytes view) {
  return std::all_of(view.begin(), view.end(), [](std::byte b) { return b == std::byte{}; });
}

bool lies_in(base::Bytes view, base::Bytes memory) {
  return view.data() >= memory.data() && view.data() + view.size() <= memory.data() + memory.size();
}

TEST(BucketMemory, WhatNobodyElseReadsIsNoSharedRegion) {
  const BucketPlan plan = two_buckets();
  auto memory = BucketMemory::create(plan, 12, {});
  ASSERT_TRUE(memory.ok());
  EXPECT_EQ((*memory)->gradient_region(), nullptr);
  EXPECT_EQ((*memory)->buffers().size(), 12U);
  ASSERT_EQ(plan.buckets.size(), 2U);
  for (std::uint32_t b = 0; b < 2; ++b) {
    EXPECT_EQ((*memory)->parameters(b).size(), plan.buckets[b].bytes);
    EXPECT_EQ((*memory)->gradients(b).size(), plan.buckets[b].bytes);
    EXPECT_TRUE(all_zero((*memory)->parameters(b)));
    EXPECT_TRUE(all_zero((*memory)->gradients_and_counts(b)));
  }
}

TEST(BucketMemory, AServerOfTheHostCanMapGradients) {
  const BucketPlan plan = two_buckets();
  auto memory = BucketMemory::create(plan, 0, {.servers = true});
  ASSERT_TRUE(memory.ok());
  ASSERT_NE((*memory)->gradient_region(), nullptr);
  const base::Bytes region = (*memory)->gradient_region()->view();
  for (std::uint32_t b = 0; b < 2; ++b) {
    EXPECT_TRUE(lies_in((*memory)->gradients_and_counts(b), region));
    EXPECT_FALSE(lies_in((*memory)->parameters(b), region));
  }
}

TEST(BucketMemory, PhantomsHaveNone) {
  const BucketPlan plan = two_buckets();
  auto memory = BucketMemory::create(plan, 12, {.servers = true}, true);
  ASSERT_TRUE(memory.ok());
  EXPECT_EQ((*memory)->gradient_region(), nullptr);
  EXPECT_TRUE(base::is_phantom((*memory)->gradients_and_counts(0)));
  EXPECT_TRUE(base::is_phantom((*memory)->parameters(1)));
}

TEST(BucketMemory, TakesAsManyDescriptorsForManyBucketsAsForOne) {
  const auto open_files = [] {
    const std::filesystem::directory_iterator files("/proc/self/fd");
    return std::distance(begin(files), end(files));
  };
  std::vector<ParameterSpec> parameters;
  for (int i = 0; i < 50; ++i) {
    parameters.push_back({"p" + std::to_string(i), {1000}, base::DType::kF32, 0});
  }
  const BucketPlan plan = *BucketPlan::make(parameters, 4000);
  ASSERT_EQ(plan.buckets.size(), 50U);
  const auto before = open_files();
  const auto memory = BucketMemory::create(plan, 12, {.servers = true});
  ASSERT_TRUE(memory.ok());
  EXPECT_LE(open_files() - before, 3) << "parameters, gradients, buffers";
  for (std::uint32_t b = 0; b + 1 < 50; ++b) {
    const base::Bytes one = (*memory)->parameters(b);
    EXPECT_LE(one.data() + one.size(), (*memory)->parameters(b + 1).data());
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(one.data()) % 4096, 0U);
  }
}

}  // namespace
}  // namespace gearshift::strategy
