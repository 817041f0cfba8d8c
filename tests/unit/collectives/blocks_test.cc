#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "gearshift/collectives/collectives.h"
#include "reference.h"
#include "world.h"

namespace gearshift::collectives::testing {
namespace {

using base::DType;

class Blocks : public OverWires {};

std::size_t own_index(const group::Group& group) {
  return static_cast<std::size_t>(group.rank().value);
}

/// What rank `from` sends rank `to`: every byte says which of the two and where.
std::byte content(std::size_t from, std::size_t to, std::size_t i) {
  return static_cast<std::byte>((31 * from + 7 * to + i) % 251);
}

/// Sizes that differ in both directions: none, few bytes, more than a piece of 4 MiB.
std::size_t size_of_block(std::size_t from, std::size_t to, std::size_t scale) {
  return ((from * 3 + to) % 4) * scale + (from > to ? 1 : 0);
}

TEST_P(Blocks, AllToAllVMovesBlocksOfAnySize) {
  World world = make_world();
  const auto n = static_cast<std::size_t>(size());
  for (const std::size_t scale : {std::size_t{0}, std::size_t{5}, (std::size_t{2} << 20) + 1}) {
    world.run([&](group::Group& group) {
      const std::size_t r = own_index(group);
      std::vector<std::size_t> in_sizes, out_sizes;
      std::vector<std::byte> in, wanted;
      for (std::size_t peer = 0; peer < n; ++peer) {
        in_sizes.push_back(size_of_block(r, peer, scale));
        out_sizes.push_back(size_of_block(peer, r, scale));
        for (std::size_t i = 0; i < in_sizes.back(); ++i) in.push_back(content(r, peer, i));
        for (std::size_t i = 0; i < out_sizes.back(); ++i) wanted.push_back(content(peer, r, i));
      }
      std::vector<std::byte> out(wanted.size());
      const auto status = all_to_all_v(group, in, in_sizes, out, out_sizes);
      EXPECT_TRUE(status.ok()) << status.error().to_string();
      EXPECT_EQ(out, wanted);
    });
  }
}

TEST_P(Blocks, GatherAndScatterUndoEachOther) {
  World world = make_world();
  const auto n = static_cast<std::size_t>(size());
  for (const std::size_t block : {std::size_t{0}, std::size_t{1}, (std::size_t{4} << 20) + 3}) {
    for (int root = 0; root < size(); root += 2) {
      world.run([&](group::Group& group) {
        const std::size_t r = own_index(group);
        const bool rooted = group.rank().value == root;
        std::vector<std::byte> own(block);
        for (std::size_t i = 0; i < block; ++i) own[i] = content(r, 0, i);
        std::vector<std::byte> all(rooted ? n * block : 0);
        auto status = gather(group, own, all, base::Rank(root));
        EXPECT_TRUE(status.ok()) << status.error().to_string();
        for (std::size_t i = 0; i < all.size(); ++i) {
          ASSERT_EQ(all[i], content(i / block, 0, i % block)) << i;
        }
        std::vector<std::byte> back(block);
        status = scatter(group, all, back, base::Rank(root));
        EXPECT_TRUE(status.ok()) << status.error().to_string();
        EXPECT_EQ(back, own);
      });
    }
  }
}

TEST_P(Blocks, RefuseWhatDoesNotFit) {
  World world = make_world();
  const auto n = static_cast<std::size_t>(size());
  world.run([&](group::Group& group) {
    std::vector<std::byte> data(2 * n);
    const base::Bytes view(data);
    const std::vector<std::size_t> one(n, 1);
    const base::Bytes left = view.first(n), right = view.subspan(n);
    EXPECT_EQ(all_to_all_v(group, left, {}, right, one).error().code,
              base::ErrorCode::kInvalidArgument);
    EXPECT_EQ(all_to_all_v(group, view, one, right, one).error().code,
              base::ErrorCode::kInvalidArgument);
    EXPECT_EQ(all_to_all_v(group, left, one, left, one).error().code,
              base::ErrorCode::kInvalidArgument);
    EXPECT_EQ(gather(group, left, right, base::Rank(size())).error().code,
              base::ErrorCode::kInvalidArgument);
    // What was refused took no number: the group goes on.
    const auto status = all_to_all_v(group, left, one, right, one);
    EXPECT_TRUE(status.ok()) << status.error().to_string();
  });
}

/// Rank 0 sends one byte more than rank 1 takes.
TEST(BlocksMismatch, IsToldAndNobodyHangs) {
  World world(inproc_wire(), 2, std::chrono::seconds(2));
  world.run([&](group::Group& group) {
    const bool first = group.rank().value == 0;
    std::vector<std::byte> in(first ? 3 : 2), out(2);
    const std::vector<std::size_t> in_sizes{1, first ? std::size_t{2} : 1}, out_sizes{1, 1};
    const auto status = all_to_all_v(group, in, first ? in_sizes : out_sizes, out, out_sizes);
    if (!first) {
      ASSERT_FALSE(status.ok());
      EXPECT_EQ(status.error().code, base::ErrorCode::kMismatch) << status.error().to_string();
    }
  });
}

/// Rank 1 gives less than is taken of it, rank 2 as much, in several pieces.
TEST(BlocksMismatch, OfOneRankSpoilsNothingOfAnother) {
  World world(inproc_wire(), 3);
  world.run([&](group::Group& group) {
    constexpr std::size_t kBlock = std::size_t{9} << 20;
    const std::size_t r = own_index(group);
    const std::vector<std::byte> own(r == 1 ? kBlock - 1 : kBlock, static_cast<std::byte>(r));
    std::vector<std::byte> all(r == 0 ? 3 * kBlock : 0);
    const auto status = gather(group, own, all, base::Rank(0));
    ASSERT_EQ(status.ok(), r != 0);
    if (r == 0) {
      EXPECT_EQ(status.error().code, base::ErrorCode::kMismatch) << status.error().to_string();
      EXPECT_EQ(status.error().culprit, 1);
      EXPECT_EQ(all[2 * kBlock], std::byte{2});
      EXPECT_EQ(all.back(), std::byte{2});
    }
    EXPECT_TRUE(barrier(group).ok()) << "the links go on";
  });
}

INSTANTIATE_TEST_SUITE_P(Wires, Blocks, ::testing::ValuesIn(settings({1, 2, 3, 5})), name_of);

}  // namespace
}  // namespace gearshift::collectives::testing
