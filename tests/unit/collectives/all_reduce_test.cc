#include <gtest/gtest.h>

#include <map>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "gearshift/collectives/collectives.h"
#include "reference.h"
#include "world.h"

namespace gearshift::collectives::testing {
namespace {

using base::DType;
using base::ReduceOp;

struct Case {
  DType dtype;
  ReduceOp op;
  std::size_t count;
  std::size_t offset = 0;

  std::string text() const {
    return std::string(base::to_string(dtype)) + " " + std::string(base::to_string(op)) + " of " +
           std::to_string(count) + " at offset " + std::to_string(offset);
  }
};

std::vector<Array> inputs_of(const Case& c, int ranks) {
  std::vector<Array> inputs;
  for (int r = 0; r < ranks; ++r) inputs.push_back(Array::of_rank(c.dtype, c.count, r, c.offset));
  return inputs;
}

/// Inputs and their reduction, which take longer to make than a collective takes.
struct Problem {
  Problem(const Case& c, int ranks) : inputs(inputs_of(c, ranks)), reduction(inputs, c.op) {}

  std::vector<Array> inputs;
  Reduction reduction;
};

/// Made once for all algorithms and wires.
const Problem& problem(const Case& c, int ranks) {
  static std::map<std::tuple<int, DType, ReduceOp, std::size_t, std::size_t>, Problem> made;
  const auto key = std::tuple(ranks, c.dtype, c.op, c.count, c.offset);
  return made.try_emplace(key, c, ranks).first->second;
}

class AllReduce : public OverWires {
 protected:
  void check_all_reduce(World& world, const Case& c, Algorithm algorithm) {
    check_all_reduces(world, c, {&algorithm, 1});
  }
  /// By each algorithm, one after the other: a rank begins the next when it is done with one.
  void check_all_reduces(World& world, const Case& c,
                         std::span<const Algorithm> algorithms = kAllAlgorithms);
  void check_reduce_scatter(World& world, const Case& c);
};

void AllReduce::check_all_reduces(World& world, const Case& c,
                                  std::span<const Algorithm> algorithms) {
  SCOPED_TRACE(c.text());
  const auto& [inputs, reduction] = problem(c, size());
  std::vector<std::vector<Array>> results(algorithms.size(), inputs);
  world.run([&](group::Group& group) {
    for (std::size_t a = 0; a < algorithms.size(); ++a) {
      Array& mine = results[a][static_cast<std::size_t>(group.rank().value)];
      const auto status =
          all_reduce(group, mine.view(), c.dtype, c.op, {.algorithm = algorithms[a]});
      EXPECT_TRUE(status.ok()) << to_string(algorithms[a]) << ": " << status.error().to_string();
    }
  });
  for (std::size_t a = 0; a < algorithms.size(); ++a) {
    SCOPED_TRACE(to_string(algorithms[a]));
    EXPECT_EQ(reduction.difference(results[a][0]), "");
    for (const Array& result : results[a]) {
      EXPECT_TRUE(equal(result.view(), results[a][0].view()));
    }
  }
}

void AllReduce::check_reduce_scatter(World& world, const Case& c) {
  SCOPED_TRACE("reduce_scatter " + c.text());
  const Problem& given = problem(c, size());
  std::vector<Array> scratch(given.inputs);
  const auto size = static_cast<std::size_t>(world.size());
  world.run([&](group::Group& group) {
    const auto r = static_cast<std::size_t>(group.rank().value);
    const std::size_t begin = part_begin(c.count, size, r);
    const std::size_t count = part_begin(c.count, size, r + 1) - begin;
    Array out(c.dtype, count, c.offset);
    const auto status = reduce_scatter(group, scratch[r].view(), out.view(), c.dtype, c.op);
    EXPECT_TRUE(status.ok()) << status.error().to_string();
    EXPECT_EQ(given.reduction.difference(out, begin), "");
  });
}

TEST_P(AllReduce, EqualsTheReferenceForAllTypesOpsAndSizes) {
  World world = make_world();
  for (const DType dtype : kAllTypes) {
    for (const ReduceOp op : kAllOps) {
      for (const std::size_t count : {0, 1, 7, 1000}) {
        check_all_reduces(world, {dtype, op, count, 0});
        check_all_reduces(world, {dtype, op, count, 1});
      }
      if (HasFailure()) return;
    }
  }
}

TEST_P(AllReduce, EqualsTheReferenceForManySegments) {
  World world = make_world();
  for (const Algorithm algorithm : kAllAlgorithms) {
    check_all_reduce(world, {DType::kF32, ReduceOp::kSum, 1'000'003, 1}, algorithm);
    check_all_reduce(world, {DType::kF64, ReduceOp::kMean, 1'000'003, 0}, algorithm);
    check_all_reduce(world, {DType::kBF16, ReduceOp::kMean, 1'000'003, 1}, algorithm);
    check_all_reduce(world, {DType::kI8, ReduceOp::kMean, 1'000'003, 1}, algorithm);
  }
}

TEST_P(AllReduce, EqualsTheReferenceHoweverRanksArePlaced) {
  World world = make_world();
  for (const auto& placement : placements(size())) {
    SCOPED_TRACE(::testing::PrintToString(placement));
    world.place(placement);
    for (const std::size_t count : {1, 3, 1000}) {
      check_all_reduces(world, {DType::kF32, ReduceOp::kMean, count, 1});
      check_all_reduces(world, {DType::kI32, ReduceOp::kSum, count, 0});
      check_all_reduces(world, {DType::kU8, ReduceOp::kMean, count, 0});
    }
    check_all_reduces(world, {DType::kF16, ReduceOp::kMax, 300'007, 0});
    if (HasFailure()) return;
  }
}

/// Links so slow that slices go round the ring of hosts, however small.
TEST_P(AllReduce, EqualsTheReferenceWhenSlicesGoRound) {
  World world = make_world();
  group::LinkSpeeds speeds;
  speeds.remote = {.latency = 0, .seconds_per_byte = 1};
  for (const auto& placement : placements(size())) {
    SCOPED_TRACE(::testing::PrintToString(placement));
    world.place(placement, speeds);
    for (const std::size_t count : {1, 3, 1000, 700'001}) {
      check_all_reduce(world, {DType::kF32, ReduceOp::kMean, count, 1}, Algorithm::kHierarchical);
    }
    if (HasFailure()) return;
  }
}

/// Hosts at two sites and at three, with a rank each and with two, near and far: by doubling and
/// round the ring of sites.
TEST_P(AllReduce, EqualsTheReferenceSiteBySite) {
  World world = make_world();
  for (const int each : {1, 2}) {
    for (const int sites : {2, 3}) {
      for (const double latency : {1.0, 0.0}) {
        std::vector<int> host_of;
        for (int r = 0; r < size(); ++r) host_of.push_back(r / each);
        const int hosts = host_of.back() + 1;
        std::vector<int> site_of;
        for (int host = 0; host < hosts; ++host) site_of.push_back(host % sites);
        world.place(host_of, speeds_at(site_of, {1e-6, 1e-12}, {latency, 1e-6}));
        SCOPED_TRACE(std::to_string(each) + " on each host at " + std::to_string(sites));
        EXPECT_EQ(world.at(0).topology()->sites() != nullptr, hosts > sites && hosts > 2);
        for (const std::size_t count : {1, 3, 1000, 700'001}) {
          const Case c{DType::kF32, ReduceOp::kMean, count, 1};
          check_all_reduce(world, c, Algorithm::kHierarchical);
          check_all_reduce(world, c, Algorithm::kAuto);
        }
        if (HasFailure()) return;
      }
    }
  }
}

TEST_P(AllReduce, PicksAnAlgorithmByItself) {
  World world = make_world();
  for (const std::size_t count : {3, 1000, 300'000}) {
    check_all_reduce(world, {DType::kF32, ReduceOp::kMean, count}, Algorithm::kAuto);
  }
}

TEST_P(AllReduce, ReduceScatterEqualsTheReference) {
  World world = make_world();
  for (const DType dtype : kAllTypes) {
    for (const ReduceOp op : kAllOps) {
      for (const std::size_t count : {0, 1, 7, 1000}) {
        check_reduce_scatter(world, {dtype, op, count, 0});
        check_reduce_scatter(world, {dtype, op, count, 1});
      }
    }
  }
  check_reduce_scatter(world, {DType::kF32, ReduceOp::kMean, 1'000'003, 1});
  check_reduce_scatter(world, {DType::kI32, ReduceOp::kMean, 1'000'003, 0});
}

INSTANTIATE_TEST_SUITE_P(Wires, AllReduce, ::testing::ValuesIn(settings()), name_of);

}  // namespace
}  // namespace gearshift::collectives::testing
