// What the headers of the elaborate all-reduce algorithms promise, counted at the connections.

#include <gtest/gtest.h>

#include <bit>
#include <set>
#include <tuple>
#include <vector>

#include "collectives/all_reduce/tree.h"
#include "collectives/two_trees.h"
#include "gearshift/collectives/collectives.h"
#include "reference.h"
#include "traffic.h"

namespace gearshift::collectives::testing {
namespace {

using base::DType;
using base::ReduceOp;

constexpr std::size_t kWidth = 4;
constexpr std::size_t kCounts[] = {1, 3, 1000, 500'009};

void reduce(group::Group& group, std::size_t count, Algorithm algorithm) {
  Array data(DType::kF32, count);
  const auto status =
      all_reduce(group, data.view(), DType::kF32, ReduceOp::kSum, {.algorithm = algorithm});
  EXPECT_TRUE(status.ok()) << status.error().to_string();
}

/// Elements of part r of `parts`.
std::size_t part_size(std::size_t count, std::size_t parts, std::size_t r) {
  return part_begin(count, parts, r + 1) - part_begin(count, parts, r);
}

/// Messages that carry so many elements, cut into so many segments: empty ones are not sent.
std::uint64_t messages(std::size_t elements, std::uint64_t segments) {
  return std::min<std::uint64_t>(elements, segments);
}

class AllReduceTraffic : public ::testing::TestWithParam<int> {
 protected:
  int n() const { return GetParam(); }
};

struct Halving {
  std::size_t sent = 0;
  std::size_t received = 0;
  std::uint64_t messages_sent = 0;
  std::uint64_t messages_received = 0;
};

/// What a player sends and receives, in elements: the halves that it gives away, and on the way
/// back those that it has kept.
Halving halving(std::size_t count, int power, int number) {
  Halving total;
  std::size_t largest = count;  // over all players
  for (int distance = 1; distance < power; distance *= 2) {
    const bool second = (number & distance) != 0;
    const std::size_t keep = part_size(count, 2, second ? 1 : 0);
    const std::size_t give = part_size(count, 2, second ? 0 : 1);
    largest = part_size(largest, 2, 0);
    const std::uint64_t segments = segments_of(largest * kWidth);
    total.sent += give + keep;
    total.received += keep + give;
    total.messages_sent += messages(give, segments) + messages(keep, segments);
    total.messages_received += messages(keep, segments) + messages(give, segments);
    count = keep;
  }
  return total;
}

TEST_P(AllReduceTraffic, Rabenseifner) {
  const int power = static_cast<int>(std::bit_floor(static_cast<unsigned>(n())));
  const int folded = n() - power;
  for (const std::size_t count : kCounts) {
    const auto costs =
        measure(n(), [&](group::Group& group) { reduce(group, count, Algorithm::kRabenseifner); });
    for (int r = 0; r < n(); ++r) {
      const bool paired = r < 2 * folded;
      const bool folds = paired && r % 2 == 0;
      const Halving game = folds ? Halving{} : halving(count, power, paired ? r / 2 : r - folded);
      const std::uint64_t extra = paired ? messages(count, segments_of(count * kWidth)) : 0;
      const std::size_t whole = paired ? count : 0;
      const Cost expected{game.messages_sent + extra, game.messages_received + extra,
                          (game.sent + whole) * kWidth, (game.received + whole) * kWidth};
      EXPECT_EQ(costs[static_cast<std::size_t>(r)], expected) << count << ", rank " << r;
      const auto p = static_cast<std::size_t>(power);
      if (!paired && count % p == 0) {
        EXPECT_EQ(expected.bytes_sent, 2 * (p - 1) * (count / p) * kWidth) << "the formula";
      }
    }
  }
}

TEST_P(AllReduceTraffic, Tree) {
  const TwoTrees trees(n());
  for (const std::size_t count : kCounts) {
    const auto costs =
        measure(n(), [&](group::Group& group) { reduce(group, count, Algorithm::kTree); });
    const std::size_t packets = tree_packets(count * kWidth);
    for (std::size_t r = 0; r < costs.size(); ++r) {
      Cost expected;
      for (std::size_t q = 0; q < packets; ++q) {
        const auto& node = trees.nodes[q % 2][r];
        const std::uint64_t degree = node.children.size() + (node.parent >= 0 ? 1 : 0);
        const std::size_t elements = part_size(count, packets, q);
        expected.messages_sent += elements > 0 ? degree : 0;
        expected.bytes_sent += degree * elements * kWidth;
      }
      expected.messages_received = expected.messages_sent;
      expected.bytes_received = expected.bytes_sent;
      EXPECT_EQ(costs[r], expected) << count << ", rank " << r;
    }
  }
}

/// Bytes that leave each group of ranks.
std::vector<std::uint64_t> bytes_out_of(World& world, const std::vector<int>& group_of,
                                        std::size_t count, Algorithm algorithm) {
  const int size = world.size();
  const auto sum = [&] {
    std::vector<std::uint64_t> out(group_of.size());
    for (int r = 0; r < size; ++r) {
      for (int peer = 0; peer < size; ++peer) {
        const int own = group_of[static_cast<std::size_t>(r)];
        if (own == group_of[static_cast<std::size_t>(peer)]) continue;
        out[static_cast<std::size_t>(own)] +=
            world.at(r).link(base::Rank(peer)).traffic().bytes_sent;
      }
    }
    return out;
  };
  const auto before = sum();
  world.run([&](group::Group& group) { reduce(group, count, algorithm); });
  auto out = sum();
  for (std::size_t group = 0; group < out.size(); ++group) out[group] -= before[group];
  return out;
}

/// Bytes that leave each host.
std::vector<std::uint64_t> bytes_out_of_hosts(const std::vector<int>& host_of, std::size_t count,
                                              Algorithm algorithm) {
  World world(inproc_wire(), static_cast<int>(host_of.size()));
  world.place(host_of);
  return bytes_out_of(world, host_of, count, algorithm);
}

TEST(HierarchicalTraffic, TwoHostsWithTwoRanksSendTheMinimumBetweenThem) {
  for (const std::vector<int>& host_of : {std::vector<int>{0, 0, 1, 1}, {0, 1, 0, 1}}) {
    for (const std::size_t count : {1'200'000, 1200}) {
      const auto out = bytes_out_of_hosts(host_of, count, Algorithm::kHierarchical);
      EXPECT_EQ(out[0], count * kWidth) << "B per direction";
      EXPECT_EQ(out[1], count * kWidth);
      // The ring of the topology has the ranks of a host side by side, wherever they are.
      const auto ring = bytes_out_of_hosts(host_of, count, Algorithm::kRing);
      EXPECT_EQ(2 * ring[0], 3 * count * kWidth) << "two thirds of it";
      EXPECT_EQ(2 * bytes_out_of_hosts(host_of, count, Algorithm::kRabenseifner)[0], 2 * out[0]);
    }
  }
  // A flat ring whose neighbours alternate between hosts, as ranks without a topology make it.
  const auto costs =
      measure(4, [](group::Group& group) { reduce(group, 1'200'000, Algorithm::kRing); });
  const std::uint64_t alternating = costs[0].bytes_sent + costs[2].bytes_sent;
  EXPECT_EQ(alternating, 3 * 1'200'000 * kWidth) << "a third of it";
}

TEST(HierarchicalTraffic, EqualHostsSendTheMinimum) {
  // 3 hosts with 2 ranks: 2(H-1)/H·B out of each.
  for (const std::vector<int>& host_of : {std::vector<int>{0, 0, 1, 1, 2, 2}, {0, 1, 2, 0, 1, 2}}) {
    const auto out = bytes_out_of_hosts(host_of, 1'200'000, Algorithm::kHierarchical);
    for (int h = 0; h < 3; ++h) {
      EXPECT_EQ(out[static_cast<std::size_t>(h)], 2 * 2 * 1'200'000 * kWidth / 3);
    }
  }
}

/// Sites of four hosts, of three, and of two with two ranks each: 2(Z-1)/Z·B out of each.
TEST(HierarchicalTraffic, SitesSendTheMinimum) {
  constexpr std::size_t kCount = 36 * 33'334;
  for (const int sites : {2, 3}) {
    for (const auto& [hosts, ranks] : {std::pair{4, 1}, std::pair{3, 1}, std::pair{2, 2}}) {
      std::vector<int> host_of;
      std::vector<int> site_of_host;
      std::vector<int> site_of_rank;
      for (int r = 0; r < sites * hosts * ranks; ++r) {
        host_of.push_back(r / ranks);
        site_of_rank.push_back(host_of.back() % sites);
        if (r % ranks == 0) site_of_host.push_back(site_of_rank.back());
      }
      World world(inproc_wire(), static_cast<int>(host_of.size()));
      world.place(host_of, speeds_at(site_of_host, {1e-6, 1e-10}, {1e-6, 1e-7}));
      for (const Algorithm algorithm : {Algorithm::kHierarchical, Algorithm::kAuto}) {
        const auto out = bytes_out_of(world, site_of_rank, kCount, algorithm);
        for (int site = 0; site < sites; ++site) {
          EXPECT_EQ(out[static_cast<std::size_t>(site)], 2 * static_cast<std::size_t>(sites - 1) *
                                                             kCount * kWidth /
                                                             static_cast<std::size_t>(sites))
              << hosts << " hosts with " << ranks;
        }
      }
    }
  }
}

/// All the header's formulas for one owner, by ring.
TEST_P(AllReduceTraffic, Hierarchical) {
  for (const auto& host_of : placements(n())) {
    const group::Topology topology(host_of);
    for (const std::size_t count : {std::size_t{1}, std::size_t{1000}, std::size_t{800'011}}) {
      const auto costs = measure(
          n(), [&](group::Group& group) { reduce(group, count, Algorithm::kHierarchical); },
          host_of);
      std::uint64_t sent = 0;
      std::uint64_t received = 0;
      for (int r = 0; r < n(); ++r) {
        const Cost& cost = costs[static_cast<std::size_t>(r)];
        sent += cost.bytes_sent;
        received += cost.bytes_received;
        const auto& members = topology.members(topology.host_of(r));
        const auto place = static_cast<std::size_t>(std::find(members.begin(), members.end(), r) -
                                                    members.begin());
        const auto owners = static_cast<std::size_t>(topology.smallest_host());
        if (place < owners) continue;
        EXPECT_EQ(cost.bytes_sent, count * kWidth) << "others contribute everything";
        EXPECT_EQ(cost.bytes_received, count * kWidth) << "and get everything";
      }
      EXPECT_EQ(sent, received);
    }
  }
}

TEST(HierarchicalTraffic, OwnersFollowTheFormula) {
  // 3 + 2 ranks on 2 hosts, so 2 slices; doubling between the hosts.
  const std::vector<int> host_of = {0, 1, 0, 1, 0};
  constexpr std::size_t kCount = 800'011;
  const auto costs = measure(
      5, [](group::Group& group) { reduce(group, kCount, Algorithm::kHierarchical); }, host_of);
  const std::uint64_t whole = kCount * kWidth;
  const std::uint64_t slice[] = {part_size(kCount, 2, 0) * kWidth,
                                 part_size(kCount, 2, 1) * kWidth};
  const int place[] = {0, 0, 1, 1};
  const std::uint64_t members[] = {3, 2, 3, 2};
  for (std::size_t r = 0; r < 4; ++r) {
    const std::uint64_t own = slice[place[r]];
    const std::uint64_t gathered = (members[r] - 1) * own;
    // On the way there an owner sends the other slices and gets its own from all others; back, the
    // other way round; and the slice goes to the other host and comes from it.
    EXPECT_EQ(costs[r].bytes_sent, whole - own + gathered + own) << r;
    EXPECT_EQ(costs[r].bytes_received, gathered + whole - own + own) << r;
  }
}

TEST(TwoTrees, AreTreesThatShareTheWork) {
  for (int n = 2; n <= 64; ++n) {
    const TwoTrees trees(n);
    std::vector<int> tasks(static_cast<std::size_t>(n));
    for (const auto& tree : trees.nodes) {
      int roots = 0;
      for (int v = 0; v < n; ++v) {
        const auto& node = tree[static_cast<std::size_t>(v)];
        EXPECT_LE(node.children.size(), 2u);
        if (!node.children.empty()) ++tasks[static_cast<std::size_t>(v)];
        if (node.parent < 0) ++roots;
        int climbed = 0;  // no circles, and no long branches
        for (int up = v; up >= 0; up = tree[static_cast<std::size_t>(up)].parent) ++climbed;
        EXPECT_LE(climbed, std::bit_width(static_cast<unsigned>(n)) + 1);
      }
      EXPECT_EQ(roots, 1);
    }
    for (const int inner : tasks) EXPECT_LE(inner, 1) << "inner in one tree, leaf in the other";
  }
}

TEST(TwoTrees, NeedFewSteps) {
  for (int n = 2; n <= 64; ++n) {
    for (const std::size_t packets : {2u, 4u, 16u, 64u}) {
      const auto depth = static_cast<std::size_t>(std::bit_width(static_cast<unsigned>(n - 1)));
      const std::size_t steps = TreeTimetable(n, packets).steps();
      EXPECT_LE(steps, 3 * packets + 6 * depth) << n << " ranks, " << packets << " packets";
    }
  }
}

TEST(TwoTrees, TimetablesAgreeOnEveryMessage) {
  for (const int n : {2, 3, 17, 64, 1024}) {
    const auto table = TreeTimetable::find(n, 8);
    std::set<std::tuple<std::uint32_t, int, int, std::uint32_t>> sent, received;
    for (int position = 0; position < n; ++position) {
      for (const TreeStep& step : table->of(position)) {
        if (step.to >= 0) sent.emplace(step.number, position, step.to, step.sent);
        if (step.from >= 0) received.emplace(step.number, step.from, position, step.received);
      }
    }
    EXPECT_EQ(sent.size(), 2 * 8 * static_cast<std::size_t>(n - 1)) << n << " ranks";
    EXPECT_EQ(sent, received) << n << " ranks";
  }
}

TEST(TwoTrees, TimetablesThatWereUsedLastAreKept) {
  const auto first = TreeTimetable::find(16, 4);
  EXPECT_EQ(TreeTimetable::find(16, 8)->packets(), 8u);
  EXPECT_EQ(TreeTimetable::find(16, 4), first);
}

INSTANTIATE_TEST_SUITE_P(Sizes, AllReduceTraffic, ::testing::Range(2, 17));
INSTANTIATE_TEST_SUITE_P(ManyRanks, AllReduceTraffic, ::testing::Values(64));

}  // namespace
}  // namespace gearshift::collectives::testing
