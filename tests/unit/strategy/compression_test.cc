// Gradients of float32 that are summed as bfloat16 under All-Reduce.

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "quiet_job.h"
#include "toy.h"

namespace gearshift::strategy {
namespace {

constexpr int kRounds = 3;

/// Two buckets, the first with an entry that has seven elements.
std::vector<ParameterSpec> two_buckets(base::DType dtype) {
  return {{"weights", {1001}, dtype, 0}, {"bias", {7}, dtype, 0}};
}

float part_of(int rank, int round, std::size_t i) {
  const double size = std::pow(10.0, static_cast<double>(i % 7) - 3);
  return static_cast<float>(size * std::sin(1.7 * rank + 0.31 * static_cast<double>(i) + round));
}

/// Another weight in each round for one rank, so that the total is not the one that was expected.
double weight_of(int rank, int round) { return rank == 0 ? 1 + round : rank; }

/// What a rank has of the weights' gradient after each round, and who has one.
struct Reduced {
  std::vector<std::vector<std::byte>> gradients;
  std::vector<std::vector<bool>> present;
};

void write(base::DType dtype, base::Bytes into, std::size_t i, float value) {
  const auto wide = static_cast<double>(value);
  if (dtype == base::DType::kF64) std::memcpy(into.data() + 8 * i, &wide, 8);
  if (dtype == base::DType::kF32) std::memcpy(into.data() + 4 * i, &value, 4);
}

/// Rank 0 alone has a gradient of the bias in round 1, nobody in round 2.
bool has_bias(int rank, int round) { return round == 0 || (round == 1 && rank == 0); }

Reduced reduce_rounds(int rank, const Environment& environment, base::DType dtype,
                      Compression compression) {
  Reduced reduced;
  ReplicaOptions options;
  options.parameters = two_buckets(dtype);
  options.strategy.kind = AllReduce{collectives::Algorithm::kRing, compression};
  options.strategy.bucket_bytes = 2048;
  auto made = Replica::create(environment, std::move(options));
  EXPECT_TRUE(made.ok()) << made.error().to_string();
  Replica& replica = **made;
  EXPECT_TRUE(replica.start().ok());
  for (int round = 0; round < kRounds; ++round) {
    const base::Bytes gradient = replica.gradient(0);
    for (std::size_t i = 0; i < 1001; ++i) write(dtype, gradient, i, part_of(rank, round, i));
    for (std::size_t i = 0; i < 7; ++i) write(dtype, replica.gradient(1), i, 1);
    EXPECT_TRUE(replica.backward_begin(weight_of(rank, round)).ok());
    auto present = replica.backward_end({true, has_bias(rank, round)});
    EXPECT_TRUE(present.ok()) << present.error().to_string();
    if (!present) return reduced;
    reduced.present.push_back(*present);
    reduced.gradients.emplace_back(gradient.begin(), gradient.end());
    EXPECT_TRUE(replica.step({}).ok());
  }
  EXPECT_TRUE(replica.stop().ok());
  return reduced;
}

std::vector<Reduced> on_ranks(int ranks, base::DType dtype, Compression compression) {
  std::vector<Reduced> all(static_cast<std::size_t>(ranks));
  toy::run_ranks(ranks, 0, [&](int rank, Environment environment) {
    all[static_cast<std::size_t>(rank)] = reduce_rounds(rank, environment, dtype, compression);
  });
  return all;
}

std::vector<float> floats_of(const std::vector<std::byte>& bytes) {
  std::vector<float> floats(bytes.size() / 4);
  std::memcpy(floats.data(), bytes.data(), bytes.size());
  return floats;
}

void expect_means(const std::vector<float>& found, int ranks, int round) {
  double total = 0;
  for (int r = 0; r < ranks; ++r) total += weight_of(r, round);
  for (std::size_t i = 0; i < found.size(); ++i) {
    double mean = 0;
    double sizes = 0;
    for (int r = 0; r < ranks; ++r) {
      const double share = part_of(r, round, i) * weight_of(r, round) / total;
      mean += share;
      sizes += std::abs(share);
    }
    // Each share is rounded, and each of the sums, by half a unit in the last of eight places.
    EXPECT_NEAR(found[i], mean, 1.01 * ranks * std::ldexp(sizes, -8)) << "element " << i;
  }
}

TEST(Compression, GivesTheMeanToWithinTheRoundings) {
  for (const int ranks : {2, 3, 5}) {
    const auto all = on_ranks(ranks, base::DType::kF32, Compression::kBf16);
    for (int round = 0; round < kRounds; ++round) {
      const auto r = static_cast<std::size_t>(round);
      expect_means(floats_of(all[0].gradients[r]), ranks, round);
      for (const Reduced& rank : all) EXPECT_EQ(rank.gradients[r], all[0].gradients[r]);
    }
    // The first round knows its total beforehand, so nothing is multiplied afterwards.
    for (const float value : floats_of(all[0].gradients[0])) {
      ASSERT_EQ(std::bit_cast<std::uint32_t>(value) & 0xffffU, 0U) << "no bfloat16: " << value;
    }
  }
}

TEST(Compression, KnowsWhoHasAGradient) {
  for (const Reduced& rank : on_ranks(3, base::DType::kF32, Compression::kBf16)) {
    EXPECT_EQ(rank.present[0], (std::vector<bool>{true, true}));
    EXPECT_EQ(rank.present[1], (std::vector<bool>{true, true}));
    EXPECT_EQ(rank.present[2], (std::vector<bool>{true, false}));
  }
}

/// Of all ranks of a ring, in `steps` steps.
std::uint64_t bytes_sent(Compression compression, int ranks, int steps) {
  quiet::Job job{.workers = ranks, .parameters = two_buckets(base::DType::kF32), .steps = steps};
  job.strategy.kind = AllReduce{collectives::Algorithm::kRing, compression};
  job.strategy.bucket_bytes = 2048;
  std::uint64_t bytes = 0;
  for (const quiet::Outcome& outcome : quiet::run(job, false)) {
    for (const auto& link : outcome.links) bytes += link.bytes_sent;
  }
  return bytes;
}

TEST(Compression, HalvesTheBytes) {
  const auto plan = BucketPlan::make(two_buckets(base::DType::kF32), 2048);
  EXPECT_EQ(plan->buckets.size(), 2U);
  std::uint64_t model = 0;
  for (const Bucket& bucket : plan->buckets) model += bucket.gradient_bytes;
  constexpr int kSteps = 4;
  for (const int ranks : {2, 3, 5}) {
    const std::uint64_t saved = bytes_sent(Compression::kNone, ranks, kSteps) -
                                bytes_sent(Compression::kBf16, ranks, kSteps);
    EXPECT_EQ(2 * saved, 2 * (static_cast<std::uint64_t>(ranks) - 1) * model * kSteps);
  }
}

TEST(Compression, LeavesOtherTypesAlone) {
  const auto as_it_is = on_ranks(3, base::DType::kF64, Compression::kNone);
  const auto compressed = on_ranks(3, base::DType::kF64, Compression::kBf16);
  EXPECT_EQ(compressed[1].gradients, as_it_is[1].gradients);
}

TEST(Compression, LeavesAWorldOfOneAlone) {
  const auto alone = on_ranks(1, base::DType::kF32, Compression::kBf16);
  const auto gradient = floats_of(alone[0].gradients[0]);
  for (std::size_t i = 0; i < gradient.size(); ++i) ASSERT_EQ(gradient[i], part_of(0, 0, i));
}

}  // namespace
}  // namespace gearshift::strategy
