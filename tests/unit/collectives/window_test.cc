// All-reduce through shared memory: which way the data go, and what happens when ranks disagree.

#include "gearshift/group/window.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
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

Wire shm_wire() {
  for (const Wire& wire : wires()) {
    if (wire.name == "shm") return wire;
  }
  return inproc_wire();
}

std::vector<Array> inputs_of(DType dtype, std::size_t count, int ranks, std::size_t offset = 0) {
  std::vector<Array> inputs;
  for (int r = 0; r < ranks; ++r) inputs.push_back(Array::of_rank(dtype, count, r, offset));
  return inputs;
}

Options by_window() {
  Options options;
  options.algorithm = Algorithm::kWindow;
  return options;
}

constexpr base::Duration kSoon = std::chrono::seconds(2);

class OverWindow : public ::testing::TestWithParam<int> {
 protected:
  int size() const { return GetParam(); }
  World make_world(base::Duration timeout = std::chrono::seconds(20)) const {
    return {shm_wire(), size(), timeout};
  }

  /// Reduces in memory that came from `allocate`, `shift` bytes into it on odd ranks, and checks.
  void check_attached(World& world, DType dtype, ReduceOp op, std::size_t count) {
    SCOPED_TRACE(std::string(base::to_string(dtype)) + " " + std::string(base::to_string(op)) +
                 " x " + std::to_string(count));
    const std::vector<Array> inputs = inputs_of(dtype, count, world.size());
    std::vector<Array> results(inputs);
    world.run([&](group::Group& group) {
      const auto r = static_cast<std::size_t>(group.rank().value);
      const std::size_t bytes = inputs[r].view().size();
      auto memory = allocate(group, bytes + 64);
      ASSERT_TRUE(memory.ok()) << memory.error().to_string();
      const base::Bytes data = (*memory)->view().subspan(r % 2 == 1 ? 24 : 0, bytes);
      std::memcpy(data.data(), inputs[r].view().data(), bytes);
      const auto status = all_reduce(group, data, dtype, op, by_window());
      ASSERT_TRUE(status.ok()) << status.error().to_string();
      std::memcpy(results[r].view().data(), data.data(), bytes);
      ASSERT_TRUE(barrier(group).ok());
    });
    EXPECT_EQ(compare(inputs, op, results[0]), "");
    for (const Array& result : results) EXPECT_TRUE(equal(result.view(), results[0].view()));
  }
};

TEST_P(OverWindow, PlainMemoryEqualsTheReference) {
  World world = make_world();
  for (const DType dtype : kAllTypes) {
    for (const ReduceOp op : kAllOps) {
      // Below and above every border: inline, one chunk, several chunks, a rest.
      for (const std::size_t count : {1, 7, 1000, 5000, 70'001}) {
        for (const std::size_t offset : {0, 1}) {
          const std::vector<Array> inputs = inputs_of(dtype, count, size(), offset);
          std::vector<Array> results(inputs);
          world.run([&](group::Group& group) {
            Array& mine = results[static_cast<std::size_t>(group.rank().value)];
            const auto status = all_reduce(group, mine.view(), dtype, op, by_window());
            EXPECT_TRUE(status.ok()) << status.error().to_string();
          });
          EXPECT_EQ(compare(inputs, op, results[0]), "")
              << base::to_string(dtype) << " " << base::to_string(op) << " x " << count;
          for (const Array& result : results) {
            EXPECT_TRUE(equal(result.view(), results[0].view()));
          }
        }
      }
      if (HasFailure()) return;
    }
  }
}

TEST_P(OverWindow, AttachedMemoryEqualsTheReference) {
  World world = make_world();
  for (const DType dtype : kAllTypes) {
    for (const ReduceOp op : kAllOps) check_attached(world, dtype, op, 5003);
  }
  check_attached(world, DType::kF32, ReduceOp::kSum, 1'000'003);
}

TEST_P(OverWindow, AttachedAndPlainMemoryMayMeet) {
  World world = make_world();
  constexpr std::size_t kCount = 200'000;
  const std::vector<Array> inputs = inputs_of(DType::kF32, kCount, size());
  std::vector<Array> results(inputs);
  world.run([&](group::Group& group) {
    const auto r = static_cast<std::size_t>(group.rank().value);
    auto memory = allocate(group, kCount * sizeof(float));
    ASSERT_TRUE(memory.ok());
    const bool attached = r == 1;
    const base::Bytes data = attached ? (*memory)->view() : results[r].view();
    if (attached) std::memcpy(data.data(), inputs[r].view().data(), data.size());
    ASSERT_TRUE(all_reduce(group, data, DType::kF32, ReduceOp::kSum).ok());
    if (attached) std::memcpy(results[r].view().data(), data.data(), data.size());
    ASSERT_TRUE(barrier(group).ok());
  });
  EXPECT_EQ(compare(inputs, ReduceOp::kSum, results[0]), "");
  for (const Array& result : results) EXPECT_TRUE(equal(result.view(), results[0].view()));
}

TEST_P(OverWindow, FactorsWeighTheRanks) {
  World world = make_world();
  for (const std::size_t count : {100, 5000, 300'000}) {
    std::vector<double> sums(count, 0.0);
    const std::vector<Array> inputs = inputs_of(DType::kF64, count, size());
    for (int r = 0; r < size(); ++r) {
      const auto values = inputs[static_cast<std::size_t>(r)].reals();
      for (std::size_t i = 0; i < count; ++i) sums[i] += static_cast<double>(values[i]) * r / 10;
    }
    for (const Algorithm algorithm : {Algorithm::kWindow, Algorithm::kRing}) {
      std::vector<Array> results(inputs);
      world.run([&](group::Group& group) {
        Options options;
        options.algorithm = algorithm;
        options.factor = group.rank().value / 10.0;
        Array& mine = results[static_cast<std::size_t>(group.rank().value)];
        ASSERT_TRUE(all_reduce(group, mine.view(), DType::kF64, ReduceOp::kSum, options).ok());
      });
      const auto values = results.back().reals();
      for (std::size_t i = 0; i < count; ++i) {
        ASSERT_NEAR(static_cast<double>(values[i]), sums[i], 1e-13) << i;
      }
    }
  }
}

TEST_P(OverWindow, OperationsBesideAComputationMeetThoseThatAreNot) {
  World world = make_world();
  std::atomic<int> wrong{0};
  world.run([&](group::Group& group) {
    for (int i = 0; i < 200; ++i) {
      std::vector<float> data(1 + static_cast<std::size_t>(i) * 97, 1.0F);
      Options options = by_window();
      options.background = (i + group.rank().value) % 2 == 0;
      const auto status = all_reduce(group, std::as_writable_bytes(std::span(data)), DType::kF32,
                                     ReduceOp::kSum, options);
      ASSERT_TRUE(status.ok()) << status.error().to_string();
      for (const float x : data) wrong += x == static_cast<float>(size()) ? 0 : 1;
    }
  });
  EXPECT_EQ(wrong, 0);
}

TEST_P(OverWindow, ManyOperationsInARowStayApart) {
  World world = make_world();
  world.run([&](group::Group& group) {
    const int n = group.size();
    for (int round = 0; round < 300; ++round) {
      // Sizes on both sides of every border, so that each way follows each other way.
      const std::size_t count = std::size_t{1} << (round % 18);
      std::vector<std::int32_t> data(count, group.rank().value + round);
      ASSERT_TRUE(all_reduce(group, std::as_writable_bytes(std::span(data)), DType::kI32,
                             ReduceOp::kSum, by_window())
                      .ok());
      const std::int32_t expected = n * (n - 1) / 2 + n * round;
      for (const std::int32_t value : data) ASSERT_EQ(value, expected) << "round " << round;
      if (round % 7 == 0) {
        ASSERT_TRUE(barrier(group).ok());
      }
    }
  });
}

TEST_P(OverWindow, DifferentSizesAreAnError) {
  World world = make_world();
  std::vector<base::Status> outcomes(static_cast<std::size_t>(size()));
  world.run([&](group::Group& group) {
    const auto r = static_cast<std::size_t>(group.rank().value);
    std::vector<float> data(r == 0 ? 100 : 101);
    outcomes[r] = all_reduce(group, std::as_writable_bytes(std::span(data)), DType::kF32,
                             ReduceOp::kSum, by_window());
  });
  for (const base::Status& outcome : outcomes) {
    ASSERT_FALSE(outcome.ok());
    EXPECT_EQ(outcome.error().code, base::ErrorCode::kMismatch) << outcome.error().to_string();
    EXPECT_NE(outcome.error().message.find("bytes"), std::string::npos);
  }
}

TEST_P(OverWindow, DifferentReductionsAreAnErrorThatSaysBoth) {
  World world = make_world();
  for (const std::size_t bytes : {8, 4096, 40'000, 1'000'000}) {
    for (const bool other_type : {false, true}) {
      std::vector<base::Status> outcomes(static_cast<std::size_t>(size()));
      world.run([&](group::Group& group) {
        const auto r = static_cast<std::size_t>(group.rank().value);
        std::vector<std::byte> data(bytes);
        const bool odd = r == 1;
        outcomes[r] = all_reduce(group, data, odd && other_type ? DType::kI32 : DType::kF32,
                                 odd && !other_type ? ReduceOp::kMax : ReduceOp::kSum);
      });
      for (const base::Status& outcome : outcomes) {
        ASSERT_FALSE(outcome.ok()) << bytes;
        EXPECT_EQ(outcome.error().code, base::ErrorCode::kMismatch) << outcome.error().to_string();
        const std::string& text = outcome.error().message;
        EXPECT_NE(text.find("sum of float32"), std::string::npos) << text;
        EXPECT_NE(text.find(other_type ? "sum of int32" : "max of float32"), std::string::npos)
            << text;
      }
      EXPECT_EQ(outcomes[0].error().culprit, 1);
    }
  }
  world.run([&](group::Group& group) { EXPECT_TRUE(barrier(group).ok()) << "all is well still"; });
}

TEST_P(OverWindow, ARankInAnotherOperationIsNoticed) {
  World world = make_world();
  world.run([&](group::Group& group) {
    // So that every part of the stages holds what could be taken for a part in the next one.
    for (int i = 0; i < 4; ++i) {
      std::vector<float> data(100, 1.0F);
      ASSERT_TRUE(
          all_reduce(group, std::as_writable_bytes(std::span(data)), DType::kF32, ReduceOp::kSum)
              .ok());
    }
    std::vector<float> data(100, 2.0F);
    const base::Bytes bytes = std::as_writable_bytes(std::span(data));
    if (group.rank().value == 1) {
      EXPECT_TRUE(barrier(group).ok());
    } else {
      const auto status = all_reduce(group, bytes, DType::kF32, ReduceOp::kSum);
      ASSERT_FALSE(status.ok());
      EXPECT_EQ(status.error().code, base::ErrorCode::kMismatch) << status.error().to_string();
      EXPECT_EQ(status.error().culprit, 1);
      EXPECT_NE(status.error().message.find("another operation"), std::string::npos);
    }
    std::fill(data.begin(), data.end(), 3.0F);
    const auto next = all_reduce(group, bytes, DType::kF32, ReduceOp::kSum);
    ASSERT_TRUE(next.ok()) << next.error().to_string();
    EXPECT_EQ(data[99], 3.0F * static_cast<float>(size()));
  });
}

TEST_P(OverWindow, AnEmptyArrayIsAnOperationToo) {
  World world = make_world();
  std::vector<base::Status> outcomes(static_cast<std::size_t>(size()));
  world.run([&](group::Group& group) {
    const auto r = static_cast<std::size_t>(group.rank().value);
    ASSERT_TRUE(all_reduce(group, {}, DType::kF32, ReduceOp::kSum).ok());
    std::vector<float> data(r == 0 ? 0 : 100);
    outcomes[r] =
        all_reduce(group, std::as_writable_bytes(std::span(data)), DType::kF32, ReduceOp::kSum);
  });
  for (const base::Status& outcome : outcomes) {
    ASSERT_FALSE(outcome.ok());
    EXPECT_EQ(outcome.error().code, base::ErrorCode::kMismatch) << outcome.error().to_string();
  }
}

TEST_P(OverWindow, WaitingForARankThatLeavesFailsAtOnce) {
  World world = make_world();
  world.run([&](group::Group& group) {
    ASSERT_TRUE(barrier(group).ok());
    if (group.rank().value == 1) {
      group.close(group.deadline());
      return;
    }
    std::vector<float> data(10'000);
    const auto status = all_reduce(group, std::as_writable_bytes(std::span(data)), DType::kF32,
                                   ReduceOp::kSum, by_window());
    ASSERT_FALSE(status.ok());
    EXPECT_NE(status.error().code, base::ErrorCode::kTimeout) << status.error().to_string();
  });
}

TEST_P(OverWindow, AFailureOfTheGroupEndsOperationsThatNeedNoLink) {
  World world = make_world();
  world.run([&](group::Group& group) {
    ASSERT_TRUE(barrier(group).ok());
    group.abort({base::ErrorCode::kPeerLost, "a server froze", 9});
    base::Status status;
    for (int i = 0; i < 1000 && status.ok(); ++i) status = barrier(group);
    ASSERT_FALSE(status.ok());
    EXPECT_NE(status.error().message.find("a server froze"), std::string::npos)
        << status.error().to_string();
  });
}

TEST_P(OverWindow, ARankThatGivesUpBeforeItsTurnLeavesNobodyWaiting) {
  if (size() < 3) GTEST_SKIP() << "needs a third rank";
  World world = make_world();
  std::atomic<bool> left{false};
  world.run([&](group::Group& group) {
    ASSERT_TRUE(barrier(group).ok());
    if (group.rank().value == 1) {
      group.close(group.deadline());
      left = true;
      return;
    }
    // Rank 0 never comes: it has seen that rank 1 is gone.
    if (group.rank().value == 0) return;
    const auto status = barrier(group);
    ASSERT_FALSE(status.ok());
    EXPECT_NE(status.error().code, base::ErrorCode::kTimeout) << status.error().to_string();
  });
  EXPECT_TRUE(left);
}

TEST_P(OverWindow, ARankThatDoesNotComeIsNamed) {
  World world = make_world(std::chrono::milliseconds(300));
  world.run([&](group::Group& group) {
    if (group.rank().value == 1) return;
    std::vector<float> data(10);
    const auto status =
        all_reduce(group, std::as_writable_bytes(std::span(data)), DType::kF32, ReduceOp::kSum);
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().code, base::ErrorCode::kTimeout);
  });
}

/// The first operation opens the window, and is as patient as it was asked to be.
TEST_P(OverWindow, TheFirstOperationWaitsForAsLongAsItMay) {
  const Options patient{.timeout = std::chrono::seconds(20)};
  for (const bool reduces : {false, true}) {
    World world = make_world(std::chrono::milliseconds(100));
    world.run([&](group::Group& group) {
      if (group.rank().value == 0) group.scheduler().sleep_for(std::chrono::milliseconds(400));
      float one = 1;
      const auto status = reduces ? all_reduce(group, base::writable_bytes_of(one), DType::kF32,
                                               ReduceOp::kSum, patient)
                                  : barrier(group, patient);
      EXPECT_TRUE(status.ok()) << status.error().to_string();
    });
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, OverWindow, ::testing::Values(2, 3, 4, 7));

/// A process may make and drop many groups in its life. What a window awaits is of no use to
/// anybody else, but would take what comes.
TEST(Window, LeavesNothingPostedOnTheLinks) {
  constexpr std::uint16_t kChannel = 7;
  constexpr transport::Tag kAwaited{kChannel, 0xFFFF'FFFF, 0xFFFF};
  World world(shm_wire(), 2);
  world.run([&](group::Group& group) {
    {
      group::Group dropped = group.with_channel(kChannel);
      ASSERT_TRUE(barrier(dropped).ok());
    }
    ASSERT_TRUE(barrier(group).ok());
    transport::Connection& link = group.link(base::Rank(1 - group.rank().value));
    const transport::Request sent = link.send(kAwaited, {});
    ASSERT_TRUE(barrier(group).ok());
    const auto status = link.recv(kAwaited, {}).wait(group.scheduler().after(kSoon));
    EXPECT_TRUE(status.ok()) << status.error().to_string();
    EXPECT_TRUE(sent.wait(group.deadline()).ok());
  });
}

TEST(Window, IsRefusedWhereMemoryIsNotShared) {
  World world(inproc_wire(), 2);
  world.run([&](group::Group& group) {
    std::vector<float> data(10);
    const auto status = all_reduce(group, std::as_writable_bytes(std::span(data)), DType::kF32,
                                   ReduceOp::kSum, by_window());
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().code, base::ErrorCode::kUnsupported);
    auto memory = allocate(group, 1000);
    ASSERT_TRUE(memory.ok());
    EXPECT_EQ((*memory)->view().size(), 1000U);
  });
}

}  // namespace
}  // namespace gearshift::collectives::testing
