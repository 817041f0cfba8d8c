// What the headers of the algorithms promise, counted at the connections. inproc counts payload
// only.

#include "traffic.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>
#include <numeric>
#include <span>
#include <vector>

#include "collectives/all_gather/bruck.h"
#include "collectives/all_gather/ring.h"
#include "collectives/broadcast/chain.h"
#include "collectives/broadcast/tree.h"
#include "collectives/ring.h"
#include "gearshift/collectives/collectives.h"
#include "reference.h"
#include "world.h"

namespace gearshift::collectives::testing {
namespace {

using base::DType;
using base::ReduceOp;

/// One message, 2 MB in several segments, and a length that no number of ranks divides.
constexpr std::size_t kCounts[] = {1, 3, 1000, 500'009};

/// The cut of `count` float32 elements, with ranks taken modulo the size.
struct Parts {
  std::size_t count;
  int size;
  std::uint64_t total() const { return count * 4; }
  std::uint64_t bytes(int r) const {
    const auto n = static_cast<std::size_t>(size);
    const auto p = static_cast<std::size_t>((r + 2 * size) % size);
    return 4 * (part_begin(count, n, p + 1) - part_begin(count, n, p));
  }
  std::uint64_t segments() const { return segments_of(bytes(0)); }
  /// Messages in which all parts but r's travel once; empty parts do not.
  std::uint64_t messages_without(int r) const {
    std::uint64_t parts = 0;
    for (int p = 0; p < size; ++p) parts += p != (r + 2 * size) % size && bytes(p) > 0 ? 1 : 0;
    return parts * segments();
  }
};

std::span<const int> everybody(int size) {
  static const std::vector<int> ranks = [] {
    std::vector<int> all(64);
    std::iota(all.begin(), all.end(), 0);
    return all;
  }();
  return std::span(ranks).first(static_cast<std::size_t>(size));
}

class TrafficTest : public ::testing::TestWithParam<int> {
 protected:
  int n() const { return GetParam(); }
};

TEST_P(TrafficTest, RingAllReduce) {
  for (const std::size_t count : kCounts) {
    const auto costs = measure(n(), [&](group::Group& group) {
      Array data(DType::kF32, count);
      EXPECT_TRUE(all_reduce(group, data.view(), DType::kF32, ReduceOp::kSum,
                             {.algorithm = Algorithm::kRing})
                      .ok());
    });
    const Parts parts{count, n()};
    for (int r = 0; r < n(); ++r) {
      const Cost expected{
          .messages_sent = parts.messages_without(r) + parts.messages_without(r + 1),
          .messages_received = parts.messages_without(r - 1) + parts.messages_without(r),
          .bytes_sent = 2 * parts.total() - parts.bytes(r) - parts.bytes(r + 1),
          .bytes_received = 2 * parts.total() - parts.bytes(r - 1) - parts.bytes(r)};
      EXPECT_EQ(costs[static_cast<std::size_t>(r)], expected) << count << ", rank " << r;
      if (count >= static_cast<std::size_t>(n())) {
        EXPECT_EQ(expected.messages_sent,
                  2 * static_cast<std::uint64_t>(n() - 1) * parts.segments());
      }
    }
  }
}

TEST_P(TrafficTest, RecursiveDoublingAllReduce) {
  const int folded = n() - static_cast<int>(std::bit_floor(static_cast<unsigned>(n())));
  const auto log = static_cast<std::uint64_t>(std::bit_width(static_cast<unsigned>(n())) - 1);
  for (const std::size_t count : kCounts) {
    const auto costs = measure(n(), [&](group::Group& group) {
      Array data(DType::kF32, count);
      EXPECT_TRUE(all_reduce(group, data.view(), DType::kF32, ReduceOp::kSum,
                             {.algorithm = Algorithm::kRecursiveDoubling})
                      .ok());
    });
    // An array with fewer elements than segments does not occur: S > 1 means 256 KiB or more.
    const std::uint64_t segments = segments_of(count * 4);
    for (int r = 0; r < n(); ++r) {
      const std::uint64_t exchanges = r >= 2 * folded ? log : r % 2 == 0 ? 1 : 1 + log;
      const Cost expected{exchanges * segments, exchanges * segments, exchanges * count * 4,
                          exchanges * count * 4};
      EXPECT_EQ(costs[static_cast<std::size_t>(r)], expected) << count << ", rank " << r;
    }
  }
}

TEST_P(TrafficTest, RingReduceScatterAndAllGather) {
  for (const std::size_t count : kCounts) {
    const Parts parts{count, n()};
    const auto scatter = measure(n(), [&](group::Group& group) {
      Array data(DType::kF32, count);
      Array out(DType::kF32, parts.bytes(group.rank().value) / 4);
      EXPECT_TRUE(reduce_scatter(group, data.view(), out.view(), DType::kF32, ReduceOp::kSum).ok());
    });
    const auto gather = measure(n(), [&](group::Group& group) {
      Array data(DType::kF32, count);
      Operation operation(group, "all_gather", "ring", {});
      EXPECT_TRUE(ring_all_gather(operation, {everybody(n()), group.rank().value},
                                  equal_parts(data.view(), 4, n()), 4)
                      .ok());
    });
    for (int r = 0; r < n(); ++r) {
      const Cost scattered{parts.messages_without(r), parts.messages_without(r - 1),
                           parts.total() - parts.bytes(r), parts.total() - parts.bytes(r - 1)};
      const Cost gathered{parts.messages_without(r + 1), parts.messages_without(r),
                          parts.total() - parts.bytes(r + 1), parts.total() - parts.bytes(r)};
      EXPECT_EQ(scatter[static_cast<std::size_t>(r)], scattered) << count << ", rank " << r;
      EXPECT_EQ(gather[static_cast<std::size_t>(r)], gathered) << count << ", rank " << r;
    }
  }
}

class BruckTest : public ::testing::TestWithParam<int> {
 protected:
  int n() const { return GetParam(); }
};

TEST_P(BruckTest, GathersInLogarithmicallyManyMessages) {
  for (const std::size_t count : {std::size_t{1}, std::size_t{5}, std::size_t{1000}}) {
    const Parts parts{count, n()};
    const Array whole = Array::of_rank(DType::kF32, count, 42);
    const auto costs = measure(n(), [&](group::Group& group) {
      Array data(DType::kF32, count);
      const int r = group.rank().value;
      const base::Bytes own = part(data.view(), 4, n(), r);
      const std::size_t begin =
          4 * part_begin(count, static_cast<std::size_t>(n()), static_cast<std::size_t>(r));
      if (!own.empty()) std::memcpy(own.data(), whole.view().data() + begin, own.size());
      Operation operation(group, "all_gather", "bruck", {});
      EXPECT_TRUE(
          bruck_all_gather(operation, {everybody(n()), r}, equal_parts(data.view(), 4, n()), 4)
              .ok());
      EXPECT_TRUE(equal(data.view(), whole.view()));
    });
    const auto bytes_from = [&](int first, int number) {
      std::uint64_t bytes = 0;
      for (int p = first; p < first + number; ++p) bytes += parts.bytes(p % n());
      return bytes;
    };
    for (int r = 0; r < n(); ++r) {
      Cost expected;
      for (int have = 1; have < n(); have *= 2) {
        const int number = std::min(have, n() - have);
        expected.bytes_sent += bytes_from(r, number);
        expected.messages_sent += bytes_from(r, number) > 0 ? 1 : 0;
        expected.messages_received += bytes_from(r + have, number) > 0 ? 1 : 0;
      }
      expected.bytes_received = parts.total() - parts.bytes(r);
      EXPECT_EQ(costs[static_cast<std::size_t>(r)], expected) << count << ", rank " << r;
      if (count >= static_cast<std::size_t>(n())) {
        EXPECT_EQ(expected.messages_sent, std::bit_width(static_cast<unsigned>(n() - 1)));
      }
    }
  }
}

TEST_P(BruckTest, SmallGathersGoByIt) {
  const auto costs = measure(n(), [&](group::Group& group) {
    std::vector<std::uint64_t> numbers(static_cast<std::size_t>(n()));
    numbers[static_cast<std::size_t>(group.rank().value)] = 7;
    EXPECT_TRUE(all_gather(group, std::as_writable_bytes(std::span(numbers)), DType::kI64).ok());
    EXPECT_EQ(std::count(numbers.begin(), numbers.end(), 7U), n());
  });
  const auto log = static_cast<std::uint64_t>(std::bit_width(static_cast<unsigned>(n() - 1)));
  const auto sent = 8 * static_cast<std::uint64_t>(n() - 1);
  for (const Cost& cost : costs) EXPECT_EQ(cost, (Cost{log, log, sent, sent}));
}

INSTANTIATE_TEST_SUITE_P(Sizes, BruckTest, ::testing::Range(1, 17));

TEST_P(TrafficTest, TreeAndChainBroadcast) {
  const int root = 1;
  for (const std::size_t count : kCounts) {
    const std::uint64_t bytes = count * 4;
    const auto tree = measure(n(), [&](group::Group& group) {
      Array data(DType::kF32, count);
      Operation operation(group, "broadcast", "tree", {});
      EXPECT_TRUE(tree_broadcast(operation, data.view(), root).ok());
    });
    const auto chain = measure(n(), [&](group::Group& group) {
      Array data(DType::kF32, count);
      Operation operation(group, "broadcast", "chain", {});
      EXPECT_TRUE(chain_broadcast(operation, data.view(), root).ok());
    });
    for (int r = 0; r < n(); ++r) {
      const int v = (r - root + n()) % n();
      std::uint64_t children = 0;
      for (int d = 1; v + d < n() && (v & d) == 0; d *= 2) ++children;
      const std::uint64_t got = v == 0 ? 0 : 1;
      EXPECT_EQ(tree[static_cast<std::size_t>(r)],
                (Cost{children, got, children * bytes, got * bytes}))
          << count << ", rank " << r;
      const std::uint64_t passed = v == n() - 1 ? 0 : 1;
      const std::uint64_t segments = segments_of(bytes);
      EXPECT_EQ(chain[static_cast<std::size_t>(r)],
                (Cost{passed * segments, got * segments, passed * bytes, got * bytes}))
          << count << ", rank " << r;
    }
  }
}

TEST_P(TrafficTest, PairwiseAllToAll) {
  for (const std::size_t block : {std::size_t{1}, std::size_t{300'001}}) {
    const std::size_t bytes = block * static_cast<std::size_t>(n());
    const auto costs = measure(n(), [&](group::Group& group) {
      const Array in(DType::kU8, bytes);
      Array out(DType::kU8, bytes);
      EXPECT_TRUE(all_to_all(group, in.view(), out.view()).ok());
    });
    const auto peers = static_cast<std::uint64_t>(n() - 1);
    const std::uint64_t messages = peers * segments_of(block);
    for (const Cost& cost : costs) {
      EXPECT_EQ(cost, (Cost{messages, messages, peers * block, peers * block}));
    }
  }
}

TEST_P(TrafficTest, DisseminationBarrier) {
  const auto costs = measure(n(), [](group::Group& group) { EXPECT_TRUE(barrier(group).ok()); });
  const auto steps = static_cast<std::uint64_t>(std::bit_width(static_cast<unsigned>(n() - 1)));
  for (const Cost& cost : costs) EXPECT_EQ(cost, (Cost{steps, steps, 0, 0}));
}

TEST_P(TrafficTest, EmptyArraysSendNothing) {
  const auto costs = measure(n(), [](group::Group& group) {
    const auto first = group.next_sequence();
    EXPECT_TRUE(all_reduce(group, {}, DType::kF32, ReduceOp::kMean).ok());
    EXPECT_TRUE(reduce_scatter(group, {}, {}, DType::kI8, ReduceOp::kMean).ok());
    EXPECT_TRUE(all_gather(group, {}, DType::kF32).ok());
    EXPECT_TRUE(broadcast(group, {}, base::Rank(0)).ok());
    EXPECT_TRUE(all_to_all(group, {}, {}).ok());
    EXPECT_EQ(group.next_sequence() - first, 1u + 5u)
        << "the numbers of operations must not depend on sizes";
  });
  for (const Cost& cost : costs) EXPECT_EQ(cost, Cost{});
}

/// Simulated messages: the same traffic, no memory.
TEST_P(TrafficTest, PhantomsCauseTheTrafficOfRealArrays) {
  constexpr std::size_t kBytes = 10 << 20;
  for (const Algorithm algorithm : kAllAlgorithms) {
    const auto run = [&](base::Bytes data, group::Group& group) {
      for (const DType dtype : {DType::kF32, DType::kI8}) {
        const auto status =
            all_reduce(group, data, dtype, ReduceOp::kMean, {.algorithm = algorithm});
        EXPECT_TRUE(status.ok()) << status.error().to_string();
      }
      EXPECT_TRUE(broadcast(group, data, base::Rank(0)).ok());
    };
    const auto phantom = measure(n(), [&](group::Group& group) {
      base::Buffer data = base::Buffer::phantom(kBytes);
      run(data.view(), group);
    });
    if (n() > 3) continue;  // the real ones take their time
    const auto real = measure(n(), [&](group::Group& group) {
      base::Buffer data(kBytes);
      std::fill(data.view().begin(), data.view().end(), std::byte{});
      run(data.view(), group);
    });
    EXPECT_EQ(phantom, real);
    EXPECT_GT(phantom[0].bytes_sent, kBytes);
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, TrafficTest, ::testing::Range(2, 17));
INSTANTIATE_TEST_SUITE_P(ManyRanks, TrafficTest, ::testing::Values(64));

}  // namespace
}  // namespace gearshift::collectives::testing
