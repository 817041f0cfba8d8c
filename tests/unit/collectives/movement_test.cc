#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "gearshift/collectives/collectives.h"
#include "gearshift/collectives/cost.h"
#include "gearshift/transport/message.h"
#include "reference.h"
#include "world.h"

namespace gearshift::collectives::testing {
namespace {

using base::DType;

constexpr std::size_t kSizes[] = {0, 1, 7, 1000, 1'000'003};
/// What messages between two ranks are cut into.
constexpr std::size_t kPiece = std::size_t{4} << 20;
constexpr std::size_t kOffsets[] = {0, 1};

std::size_t index(const group::Group& group) {
  return static_cast<std::size_t>(group.rank().value);
}

void copy(base::ConstBytes from, base::Bytes into) {
  ASSERT_EQ(from.size(), into.size());
  if (!from.empty()) std::memcpy(into.data(), from.data(), from.size());
}

class Movement : public OverWires {};

TEST_P(Movement, AllGatherPutsTogetherEveryonesPart) {
  World world = make_world();
  const auto n = static_cast<std::size_t>(size());
  for (const DType dtype : kAllTypes) {
    for (const std::size_t count : kSizes) {
      if (count > 1000 && dtype != DType::kF16) continue;
      for (const std::size_t offset : kOffsets) {
        SCOPED_TRACE(std::string(base::to_string(dtype)) + " " + std::to_string(count));
        const Array whole = Array::of_rank(dtype, count, 42);
        world.run([&](group::Group& group) {
          Array mine(dtype, count, offset);
          const std::size_t unit = base::size_of(dtype);
          const std::size_t begin = part_begin(count, n, index(group)) * unit;
          const std::size_t end = part_begin(count, n, index(group) + 1) * unit;
          copy(base::slice(whole.view(), begin, end - begin),
               base::slice(mine.view(), begin, end - begin));
          const auto status = all_gather(group, mine.view(), dtype);
          EXPECT_TRUE(status.ok()) << status.error().to_string();
          EXPECT_TRUE(equal(mine.view(), whole.view()));
        });
      }
    }
  }
}

TEST_P(Movement, AllGatherVTakesPartsOfAnySize) {
  World world = make_world();
  const auto n = static_cast<std::size_t>(size());
  for (const std::size_t largest : {0, 5, 700'001}) {
    std::vector<std::size_t> sizes;
    for (std::size_t r = 0; r < n; ++r) sizes.push_back(r % 3 == 1 ? 0 : largest / (r + 1));
    const std::size_t total = std::accumulate(sizes.begin(), sizes.end(), std::size_t{0});
    const Array whole = Array::of_rank(DType::kU8, total, 7);
    world.run([&](group::Group& group) {
      Array mine(DType::kU8, total, 1);
      const auto begin = std::accumulate(
          sizes.begin(), sizes.begin() + static_cast<std::ptrdiff_t>(index(group)), std::size_t{0});
      const std::size_t length = sizes[index(group)];
      copy(base::slice(whole.view(), begin, length), base::slice(mine.view(), begin, length));
      const auto status = all_gather_v(group, mine.view(), sizes);
      EXPECT_TRUE(status.ok()) << status.error().to_string();
      EXPECT_TRUE(equal(mine.view(), whole.view()));
    });
  }
}

TEST_P(Movement, BroadcastCopiesTheRoot) {
  World world = make_world();
  for (int root = 0; root < size(); ++root) {
    for (const std::size_t count : kSizes) {
      for (const std::size_t offset : kOffsets) {
        const Array source = Array::of_rank(DType::kU8, count, 3);
        world.run([&](group::Group& group) {
          Array mine(DType::kU8, count, offset);
          if (group.rank().value == root) copy(source.view(), mine.view());
          const auto status = broadcast(group, mine.view(), base::Rank(root));
          EXPECT_TRUE(status.ok()) << status.error().to_string();
          EXPECT_TRUE(equal(mine.view(), source.view()));
        });
      }
    }
  }
}

TEST_P(Movement, AllToAllTransposesBlocks) {
  World world = make_world();
  const auto n = static_cast<std::size_t>(size());
  for (const std::size_t block : kSizes) {
    for (const std::size_t offset : kOffsets) {
      std::vector<Array> inputs;
      for (int r = 0; r < size(); ++r) {
        inputs.push_back(Array::of_rank(DType::kU8, block * n, r, offset));
      }
      world.run([&](group::Group& group) {
        Array out(DType::kU8, block * n, offset);
        const auto status = all_to_all(group, inputs[index(group)].view(), out.view());
        EXPECT_TRUE(status.ok()) << status.error().to_string();
        for (std::size_t from = 0; from < n; ++from) {
          EXPECT_TRUE(equal(base::slice(out.view(), from * block, block),
                            base::slice(inputs[from].view(), index(group) * block, block)));
        }
      });
    }
  }
}

TEST_P(Movement, BarrierWaitsForTheLast) {
  World world = make_world();
  for (int last = 0; last < size(); ++last) {
    std::atomic<bool> came{false};
    world.run([&](group::Group& group) {
      if (group.rank().value == last) {
        group.scheduler().sleep_for(std::chrono::milliseconds(5));
        came = true;
      }
      EXPECT_TRUE(barrier(group).ok());
      EXPECT_TRUE(came);
    });
  }
}

TEST_P(Movement, PointToPointKeepsTheOrderOfAPairAndDisturbsNoCollective) {
  World world = make_world();
  const int n = size();
  world.run([&](group::Group& group) {
    const int r = group.rank().value;
    // Rank 0 hears from all, in an order that differs from that of sending; only pairs count.
    for (int round = 0; round < 3; ++round) {
      const std::size_t count = round == 1 ? 0 : 1000 + static_cast<std::size_t>(round);
      for (int peer = n - 1; peer > 0; --peer) {
        const Array sent = Array::of_rank(DType::kF64, count, 10 * peer + round);
        if (r == peer) {
          EXPECT_TRUE(send(group, sent.view(), base::Rank(0)).ok());
        } else if (r == 0) {
          Array got(DType::kF64, count, 1);
          const auto status = recv(group, got.view(), base::Rank(peer));
          EXPECT_TRUE(status.ok()) << status.error().to_string();
          EXPECT_TRUE(equal(got.view(), sent.view()));
        }
      }
      std::int64_t one = 1;
      EXPECT_TRUE(
          all_reduce(group, base::writable_bytes_of(one), DType::kI64, base::ReduceOp::kSum).ok());
      EXPECT_EQ(one, n);
    }
  });
}

TEST_P(Movement, LongMessagesBetweenTwoGoInPieces) {
  if (size() < 2) GTEST_SKIP() << "takes two ranks";
  World world = make_world();
  world.run([&](group::Group& group) {
    if (group.rank().value > 1) return;
    for (const std::size_t count : {kPiece - 1, kPiece, kPiece + 1, 5 * kPiece + 7}) {
      const Array sent = Array::of_rank(DType::kU8, count, 3);
      if (group.rank().value == 1) {
        EXPECT_TRUE(send(group, sent.view(), base::Rank(0)).ok());
      } else if (group.rank().value == 0) {
        Array got(DType::kU8, count, 1);
        const auto status = recv(group, got.view(), base::Rank(1));
        EXPECT_TRUE(status.ok()) << status.error().to_string();
        EXPECT_TRUE(equal(got.view(), sent.view()));
      }
    }
  });
}

TEST_P(Movement, SizesThatDifferByWholePiecesAreNoticed) {
  if (size() < 2) GTEST_SKIP() << "takes two ranks";
  for (const auto& [sent, expected] : {std::pair(kPiece, 2 * kPiece), {2 * kPiece, kPiece}}) {
    World world = make_world();
    world.run([&, sent = sent, expected = expected](group::Group& group) {
      if (group.rank().value == 1) {
        (void)send(group, Array(DType::kU8, sent, 1).view(), base::Rank(0));
      } else if (group.rank().value == 0) {
        Array got(DType::kU8, expected, 1);
        const auto status = recv(group, got.view(), base::Rank(1));
        ASSERT_FALSE(status.ok());
        EXPECT_EQ(status.error().code, base::ErrorCode::kMismatch) << status.error().to_string();
      }
    });
  }
}

TEST_P(Movement, TwoChannelsCanBeInFlightAtOnce) {
  World world = make_world();
  constexpr std::size_t kCount = 140'000;
  std::vector<Array> inputs;
  for (int r = 0; r < size(); ++r) inputs.push_back(Array::of_rank(DType::kF32, kCount, r));
  const Reduction reduction(inputs, base::ReduceOp::kSum);
  world.run([&](group::Group& group) {
    const auto reduce_on = [&](std::uint16_t channel) {
      group::Group lane = group.with_channel(channel);
      for (int round = 0; round < 3; ++round) {
        Array mine = Array::of_rank(DType::kF32, kCount, group.rank().value);
        const auto status =
            all_reduce(lane, mine.view(), DType::kF32, base::ReduceOp::kSum,
                       {.algorithm = channel == 1 ? Algorithm::kRing : Algorithm::kAuto});
        EXPECT_TRUE(status.ok()) << status.error().to_string();
        EXPECT_EQ(reduction.difference(mine), "");
      }
    };
    // Ranks start the two in different orders.
    const std::uint16_t first = group.rank().value % 2 == 0 ? 1 : 2;
    const auto other = static_cast<std::uint16_t>(3 - first);
    auto task = group.scheduler().spawn("lane", [&] { reduce_on(first); });
    reduce_on(other);
    task->join();
  });
}

TEST_P(Movement, SubgroupsReduceAmongThemselves) {
  World world = make_world();
  world.run([&](group::Group& group) {
    std::vector<base::Rank> members;
    for (int r = group.rank().value % 2; r < group.size(); r += 2) members.emplace_back(r);
    group::Group half = group.subgroup(members, 9);
    std::int32_t sum = group.rank().value;
    EXPECT_TRUE(
        all_reduce(half, base::writable_bytes_of(sum), DType::kI32, base::ReduceOp::kSum).ok());
    std::int32_t expected = 0;
    for (const base::Rank member : members) expected += member.value;
    EXPECT_EQ(sum, expected);
  });
}

/// Over links on which latency counts for more than the data, where it goes along a tree.
TEST(Broadcast, MayBeLargerThanAMessage) {
  World world(inproc_wire(), 4);
  group::LinkSpeeds far;
  far.remote = {.latency = 0.05, .seconds_per_byte = 1e-9};
  world.place({0, 1, 2, 3}, far);
  constexpr std::size_t kBytes = transport::kMaxBodyBytes + (std::size_t{1} << 20);
  ASSERT_FALSE(broadcast_prefers_chain(kBytes, 4, far.remote));
  world.run([&](group::Group& group) {
    base::Buffer data = base::Buffer::phantom(kBytes);
    const auto status = broadcast(group, data.view(), base::Rank(1));
    EXPECT_TRUE(status.ok()) << status.error().to_string();
  });
}

INSTANTIATE_TEST_SUITE_P(Wires, Movement, ::testing::ValuesIn(settings()), name_of);

}  // namespace
}  // namespace gearshift::collectives::testing
