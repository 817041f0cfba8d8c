// Collectives that move data through shared memory, mixed with all-reduces, and in disagreement.

#include <gtest/gtest.h>

#include <chrono>
#include <iterator>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "gearshift/collectives/collectives.h"
#include "reference.h"
#include "world.h"

namespace gearshift::collectives::testing {
namespace {

using base::DType;
using base::ReduceOp;

class MovesOverWindow : public ::testing::TestWithParam<int> {
 protected:
  int size() const { return GetParam(); }
  World make_world() const {
    for (const Wire& wire : wires()) {
      if (wire.name == "shm") return {wire, size(), std::chrono::seconds(20)};
    }
    return {inproc_wire(), size(), std::chrono::seconds(20)};
  }
};

/// What rank r has at place i of operation k: small whole numbers, whose sums are exact.
float value(std::size_t k, int r, std::size_t i) {
  return static_cast<float>((k * 31 + static_cast<std::size_t>(r) * 7 + i) % 101);
}

std::vector<float> values(std::size_t k, int r, std::size_t count) {
  std::vector<float> made(count);
  for (std::size_t i = 0; i < count; ++i) made[i] = value(k, r, i);
  return made;
}

float sum(std::size_t k, int ranks, std::size_t i) {
  float total = 0;
  for (int r = 0; r < ranks; ++r) total += value(k, r, i);
  return total;
}

/// Operation k on this rank, checked; the same on all ranks.
void run_operation(group::Group& group, std::size_t k, unsigned kind, std::size_t count) {
  const int rank = group.rank().value;
  const int ranks = group.size();
  const auto parts = static_cast<std::size_t>(ranks);
  std::vector<float> data = values(k, rank, count);
  const base::Bytes bytes = std::as_writable_bytes(std::span(data));
  const auto begin_of = [&](int r) {
    return part_begin(count, parts, static_cast<std::size_t>(r));
  };
  if (kind == 0) {
    ASSERT_TRUE(all_reduce(group, bytes, DType::kF32, ReduceOp::kSum).ok());
    for (std::size_t i = 0; i < count; ++i) ASSERT_EQ(data[i], sum(k, ranks, i));
  } else if (kind == 1) {
    ASSERT_TRUE(all_gather(group, bytes, DType::kF32).ok());
    for (int r = 0; r < ranks; ++r) {
      for (std::size_t i = begin_of(r); i < begin_of(r + 1); ++i) {
        ASSERT_EQ(data[i], value(k, r, i));
      }
    }
  } else if (kind == 2) {
    std::vector<float> out(begin_of(rank + 1) - begin_of(rank));
    ASSERT_TRUE(reduce_scatter(group, bytes, std::as_writable_bytes(std::span(out)), DType::kF32,
                               ReduceOp::kSum)
                    .ok());
    for (std::size_t i = 0; i < out.size(); ++i) {
      ASSERT_EQ(out[i], sum(k, ranks, begin_of(rank) + i));
    }
    EXPECT_EQ(data, values(k, rank, count)) << "the input is left as it is";
  } else if (kind == 3) {
    const int root = static_cast<int>(k % parts);
    ASSERT_TRUE(broadcast(group, bytes, base::Rank(root)).ok());
    for (std::size_t i = 0; i < count; ++i) ASSERT_EQ(data[i], value(k, root, i));
  } else {
    ASSERT_TRUE(barrier(group).ok());
  }
}

TEST_P(MovesOverWindow, MixedWithOthersWhileRanksAreSlowInTurn) {
  constexpr std::size_t kMixedCounts[] = {0, 1, 5, 300, 3'000, 66'000, 300'001};
  World world = make_world();
  world.run([&](group::Group& group) {
    std::mt19937 same(7);  // the same on all ranks
    std::mt19937 own(static_cast<unsigned>(group.rank().value));
    for (std::size_t k = 0; k < 120; ++k) {
      const unsigned kind = same() % 5;
      const std::size_t count = kMixedCounts[same() % std::size(kMixedCounts)];
      if (own() % 8 == 0) group.scheduler().sleep_for(std::chrono::microseconds(own() % 800));
      ASSERT_NO_FATAL_FAILURE(run_operation(group, k, kind, count)) << k << " " << kind;
    }
  });
}

TEST_P(MovesOverWindow, PartsMayOverlapWithWhereTheyGo) {
  World world = make_world();
  world.run([&](group::Group& group) {
    std::vector<float> data = values(1, group.rank().value, 10);
    const std::size_t n = static_cast<std::size_t>(group.size());
    const auto self = static_cast<std::size_t>(group.rank().value);
    const std::size_t begin = part_begin(10, n, self);
    const std::size_t count = part_begin(10, n, self + 1) - begin;
    const std::span<float> own = std::span(data).subspan(begin, count);
    ASSERT_TRUE(reduce_scatter(group, std::as_writable_bytes(std::span(data)),
                               std::as_writable_bytes(own), DType::kF32, ReduceOp::kSum)
                    .ok());
    for (std::size_t i = 0; i < count; ++i) EXPECT_EQ(own[i], sum(1, group.size(), begin + i));
  });
}

/// Rank 1 calls one thing, the others another: all are told so, and go on.
template <typename Odd, typename Rest>
void expect_told(World& world, Odd odd, Rest rest, const std::string& words) {
  world.run([&](group::Group& group) {
    const base::Status status = group.rank().value == 1 ? odd(group) : rest(group);
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().code, base::ErrorCode::kMismatch) << status.error().to_string();
    EXPECT_NE(status.error().message.find(words), std::string::npos) << status.error().message;
    float one = 1;
    ASSERT_TRUE(
        all_reduce(group, std::as_writable_bytes(std::span(&one, 1)), DType::kF32, ReduceOp::kSum)
            .ok());
    EXPECT_EQ(one, static_cast<float>(group.size()));
  });
}

TEST_P(MovesOverWindow, RanksThatCallDifferentThingsAreTold) {
  World world = make_world();
  const auto gather = [](std::size_t bytes) {
    return [bytes](group::Group& group) {
      std::vector<std::byte> data(bytes);
      return all_gather(group, data, DType::kU8);
    };
  };
  const auto cast = [](int root) {
    return [root](group::Group& group) {
      std::vector<std::byte> data(std::size_t{1} << 20);
      return broadcast(group, data, base::Rank(root));
    };
  };
  const auto reduce = [](group::Group& group) {
    std::vector<std::byte> data(1000);
    return all_reduce(group, data, DType::kU8, ReduceOp::kSum);
  };
  const auto parts = [](std::size_t first) {
    return [first](group::Group& group) {
      std::vector<std::byte> data(100);
      std::vector<std::size_t> sizes(static_cast<std::size_t>(group.size()), 0);
      sizes[0] = first;
      sizes[1] = 100 - first;
      return all_gather_v(group, data, sizes);
    };
  };
  expect_told(world, gather(1000), cast(0), "is in another operation");
  expect_told(world, reduce, gather(1000), "is in another operation");
  expect_told(world, gather(600'000), gather(700'000), "00000 bytes, this one");
  expect_told(world, cast(0), cast(1), "of this group, this one from rank");
  expect_told(world, parts(10), parts(90), "and this one takes");
}

INSTANTIATE_TEST_SUITE_P(Ranks, MovesOverWindow, ::testing::Values(2, 3, 5));

}  // namespace
}  // namespace gearshift::collectives::testing
