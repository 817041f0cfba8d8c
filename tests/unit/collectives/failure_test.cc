#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <latch>
#include <memory>
#include <string>
#include <vector>

#include "gearshift/collectives/collectives.h"
#include "reference.h"
#include "world.h"

namespace gearshift::collectives::testing {
namespace {

using base::DType;
using base::ErrorCode;
using base::ReduceOp;

constexpr base::Duration kLong = std::chrono::seconds(60);

void expect_invalid(const base::Status& status, const std::string& text) {
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kInvalidArgument);
  EXPECT_NE(status.error().message.find(text), std::string::npos) << status.error().message;
}

class Failure : public OverWires {};

TEST_P(Failure, WrongArgumentsAreRefusedBeforeAnythingIsSent) {
  World world = make_world();
  std::byte bytes[64] = {};
  const base::Bytes data(bytes);
  group::Group& group = world.at(0);
  const std::uint64_t sent = group.traffic().messages_sent;
  expect_invalid(all_reduce(group, data.first(7), DType::kF32, ReduceOp::kSum),
                 "7 bytes are no whole number of float32 elements");
  expect_invalid(all_reduce(group, data, DType::kF32, ReduceOp::kSum,
                            {.algorithm = static_cast<Algorithm>(77)}),
                 "no algorithm 77");
  expect_invalid(reduce_scatter(group, data, data.first(3), DType::kU8, ReduceOp::kSum), "`out`");
  expect_invalid(all_gather(group, data.first(9), DType::kI64), "all_gather");
  expect_invalid(all_gather_v(group, data, {1}), "1 sizes for a group of 3");
  expect_invalid(all_gather_v(group, data, {1, 2, 3}), "add up to 6 bytes");
  expect_invalid(broadcast(group, data, base::Rank(3)), "rank 3 does not exist");
  expect_invalid(broadcast(group, data, base::Rank(-1)), "rank -1 does not exist");
  expect_invalid(all_to_all(group, data, data.first(63)), "`in` has 64 bytes, `out` has 63");
  expect_invalid(all_to_all(group, data.first(31), data.last(31)), "3 equal blocks");
  expect_invalid(all_to_all(group, data.first(33), data.last(33)), "overlap");
  expect_invalid(send(group, data, base::Rank(0)), "own peer");
  expect_invalid(recv(group, data, base::Rank(7)), "rank 7 does not exist");
  EXPECT_EQ(group.next_sequence(), 0u);
  EXPECT_EQ(group.traffic().messages_sent, sent);
}

TEST_P(Failure, DifferentSizesAreAnErrorThatSaysBoth) {
  World world = make_world(kLong);
  std::atomic<int> explained{0};
  world.run([&](group::Group& group) {
    const std::size_t count = group.rank().value == 1 ? 120 : 90;
    Array data(DType::kF32, count);
    const auto status = all_reduce(group, data.view(), DType::kF32, ReduceOp::kSum,
                                   {.algorithm = Algorithm::kRing});
    ASSERT_FALSE(status.ok());
    group.abort(status.error());
    if (status.error().code != ErrorCode::kMismatch) return;
    const std::string& text = status.error().message;
    EXPECT_NE(text.find("all_reduce (ring, step"), std::string::npos) << text;
    if (text.find("120") != std::string::npos && text.find("160") != std::string::npos) {
      ++explained;
    }
  });
  EXPECT_GE(explained, 1);
}

/// Neither takes the other's data for what it waits for; what each is in shows the difference.
TEST_P(Failure, RanksThatReduceDifferentlyNeverSucceed) {
  for (const Algorithm algorithm : kAllAlgorithms) {
    for (const bool other_type : {false, true}) {
      World world = make_world(kLong);
      world.run([&](group::Group& group) {
        const bool odd = group.rank().value == 1;
        Array data(DType::kF32, 90);
        base::Status status =
            all_reduce(group, data.view(), odd && other_type ? DType::kI32 : DType::kF32,
                       odd && !other_type ? ReduceOp::kMax : ReduceOp::kSum,
                       {.algorithm = algorithm, .timeout = std::chrono::milliseconds(100)});
        ASSERT_FALSE(status.ok()) << to_string(algorithm);
        EXPECT_EQ(status.error().code, ErrorCode::kTimeout) << status.error().to_string();
        const std::string was = group.progress().snapshot().operation;
        const char* const meant = !odd         ? "sum of float32"
                                  : other_type ? "sum of int32"
                                               : "max of float32";
        EXPECT_NE(was.find(meant), std::string::npos) << was;
        const std::string& said = status.error().message;
        EXPECT_NE(said.find(meant), std::string::npos) << said;
      });
    }
  }
}

/// A whole array of the one is as long as what the other, with twice as much, sends at first.
TEST(Disagreement, LengthsWhoseMessagesFitByChanceAreAnError) {
  World world(inproc_wire(), 2, kLong);
  std::atomic<int> told{0};
  world.run([&](group::Group& group) {
    const bool odd = group.rank().value == 1;
    Array data(DType::kF32, odd ? 160 : 80);
    const auto status =
        all_reduce(group, data.view(), DType::kF32, ReduceOp::kSum,
                   {.algorithm = odd ? Algorithm::kRing : Algorithm::kRecursiveDoubling});
    ASSERT_FALSE(status.ok());
    if (status.error().code == ErrorCode::kMismatch) ++told;
    group.abort(status.error());
  });
  EXPECT_GE(told, 1);
}

/// All of them travel as int64.
TEST_P(Failure, MeansOfDifferentIntegersNeverSucceed) {
  World world = make_world(kLong);
  const bool windows = GetParam().wire.name == "shm";
  world.run([&](group::Group& group) {
    const bool odd = group.rank().value == 1;
    const Options options{.timeout = std::chrono::milliseconds(100)};
    const auto expect_told = [&](const base::Status& status, ErrorCode code) {
      ASSERT_FALSE(status.ok());
      EXPECT_EQ(status.error().code, code) << status.error().to_string();
      const std::string& said = status.error().message;
      EXPECT_NE(said.find(odd ? "mean of int8" : "mean of int32"), std::string::npos) << said;
    };
    const DType dtype = odd ? DType::kI8 : DType::kI32;
    Array data(dtype, 90), part(dtype, 30);
    const ErrorCode told = windows ? ErrorCode::kMismatch : ErrorCode::kTimeout;
    expect_told(all_reduce(group, data.view(), dtype, ReduceOp::kMean, options), told);
    expect_told(reduce_scatter(group, data.view(), part.view(), dtype, ReduceOp::kMean, options),
                told);
  });
}

TEST(Disagreement, ABroadcastFromAnotherRootIsNotTaken) {
  World world(inproc_wire(), 4);
  world.run([&](group::Group& group) {
    // A chain in which rank 1 passes on what comes from rank 3, and rank 2 waits for rank 0's.
    const base::Rank root(group.rank().value == 2 ? 0 : 3);
    Array data(DType::kU8, 1 << 20);
    const auto status =
        broadcast(group, data.view(), root, {.timeout = std::chrono::milliseconds(100)});
    EXPECT_TRUE(group.rank().value != 2 || !status.ok());
  });
}

TEST(Disagreement, OverMessagesWhoWaitsForNobodySucceeds) {
  World world(inproc_wire(), 2);
  world.run([&](group::Group& group) {
    const bool odd = group.rank().value == 1;
    Array data(DType::kU8, 160);
    const base::Bytes some = base::slice(data.view(), 0, odd ? 80 : 160);
    const base::Bytes none = base::slice(data.view(), 0, odd ? 0 : 160);
    EXPECT_TRUE(broadcast(group, data.view(), group.rank()).ok()) << "all are roots";
    const auto shorter = broadcast(group, some, base::Rank(0));
    ASSERT_EQ(shorter.ok(), !odd);
    if (odd) {
      EXPECT_EQ(shorter.error().code, ErrorCode::kMismatch);
    }
    EXPECT_TRUE(barrier(group).ok()) << "the link goes on";
    const auto empty = all_reduce(group, none, DType::kU8, ReduceOp::kSum,
                                  {.timeout = std::chrono::milliseconds(100)});
    ASSERT_EQ(empty.ok(), odd);
    if (!odd) {
      EXPECT_EQ(empty.error().code, ErrorCode::kTimeout);
    }
  });
}

TEST_P(Failure, AMissingRankIsNamedWithOperationAndStep) {
  World world = make_world(kLong);
  const auto begin = world.scheduler().now();
  world.run([&](group::Group& group) {
    if (group.rank().value == 1) return;  // frozen
    Array data(DType::kF32, 100);
    const auto status = all_reduce(group, data.view(), DType::kF32, ReduceOp::kSum,
                                   {.algorithm = Algorithm::kRing,
                                    .label = "all_reduce bucket 3",
                                    .timeout = std::chrono::milliseconds(100)});
    ASSERT_FALSE(status.ok());
    if (group.rank().value != 2) return;  // rank 2 is the one that hears from rank 1
    EXPECT_EQ(status.error().code, ErrorCode::kTimeout);
    EXPECT_EQ(status.error().culprit, 1);
    EXPECT_EQ(
        status.error().message.find("all_reduce bucket 3 (ring, step 1 of 4): waiting for rank 1"),
        0u)
        << status.error().message;
  });
  EXPECT_LT(base::to_seconds(world.scheduler().now() - begin), 10);
}

TEST_P(Failure, TheTimeoutCountsFromTheLastProgress) {
  World world = make_world(std::chrono::milliseconds(1500));
  world.run([&](group::Group& group) {
    // Eight messages 250 ms apart: longer in all than the timeout, which none of them exceeds.
    std::byte one{};
    const base::Bytes data(&one, 1);
    for (int i = 0; i < 8; ++i) {
      if (group.rank().value == 0) group.scheduler().sleep_for(std::chrono::milliseconds(250));
      const auto status = broadcast(group, data, base::Rank(0));
      EXPECT_TRUE(status.ok()) << status.error().to_string();
    }
  });
}

/// Rank 1 gives up in the middle of a stream of operations; all the others learn of it long before
/// their timeout, whichever rank they are waiting for, since each passes it on.
TEST_P(Failure, AnAbortReachesEveryone) {
  World world = make_world(kLong);
  const auto begin = world.scheduler().now();
  std::atomic<int> failed{0};
  world.run([&](group::Group& group) {
    Array data(DType::kF32, 100'000);
    Array out(DType::kF32, 100'000);
    for (int round = 0; round < 1000; ++round) {
      if (group.rank().value == 1 && round == 20) {
        group.abort({ErrorCode::kAborted, "the user pressed ctrl-C", 1});
      }
      base::Status status = all_reduce(
          group, data.view(), DType::kF32, ReduceOp::kSum,
          {.algorithm = round % 2 == 0 ? Algorithm::kRing : Algorithm::kRecursiveDoubling});
      if (status) status = broadcast(group, data.view(), base::Rank(0));
      if (status) {
        status =
            all_to_all(group, base::slice(data.view(), 0, 1200), base::slice(out.view(), 0, 1200));
      }
      if (status) continue;
      group.abort(status.error());
      ++failed;
      return;
    }
  });
  EXPECT_EQ(failed, size());
  EXPECT_LT(base::to_seconds(world.scheduler().now() - begin), 20);
}

/// After an error the memory may go away: what a late peer still sends must land nowhere.
TEST_P(Failure, NoMemoryIsTouchedAfterAnError) {
  World world = make_world(kLong);
  std::latch failed(size() - 1);
  world.run([&](group::Group& group) {
    if (group.rank().value == 0) failed.wait();
    auto data = std::make_unique<Array>(Array::of_rank(DType::kF32, 500'000, 1));
    const auto status =
        all_reduce(group, data->view(), DType::kF32, ReduceOp::kSum,
                   {.algorithm = Algorithm::kRing,
                    .timeout = std::chrono::milliseconds(group.rank().value == 0 ? 1000 : 100)});
    EXPECT_TRUE(group.rank().value == 0 || !status.ok());
    const Array before(*data);
    if (group.rank().value != 0) failed.count_down();
    group.scheduler().sleep_for(std::chrono::milliseconds(400));
    EXPECT_TRUE(equal(before.view(), data->view()));
  });
}

TEST_P(Failure, WhoClosesItsLinksBlamesNobody) {
  World world = make_world();
  world.run([&](group::Group& group) {
    if (group.rank().value != 0) return;
    base::Status status;
    auto receiver = group.scheduler().spawn("receiver", [&] {
      std::byte byte{};
      status = recv(group, {&byte, 1}, base::Rank(1));
    });
    group.close(group.deadline());
    receiver->join();
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().code, ErrorCode::kClosed) << status.error().to_string();
    EXPECT_EQ(status.error().culprit, -1) << status.error().to_string();
  });
}

TEST_P(Failure, ProgressNamesTheOperation) {
  World world = make_world();
  const bool window = GetParam().wire.name == "shm";
  world.run([&](group::Group& group) {
    EXPECT_TRUE(barrier(group).ok());
    if (group.rank().value == 0) {
      const std::string expected =
          window ? "barrier after epoch 2 (window)" : "barrier after epoch 2 (dissemination)";
      const base::TimePoint deadline = group.scheduler().after(std::chrono::seconds(10));
      const auto seen = [&] { return world.at(1).progress().snapshot().operation; };
      while (seen() != expected && group.scheduler().now() < deadline) {
        group.scheduler().sleep_for(std::chrono::milliseconds(1));
      }
      EXPECT_EQ(seen(), expected);
    }
    EXPECT_TRUE(barrier(group, {.label = "barrier after epoch 2"}).ok());
  });
}

INSTANTIATE_TEST_SUITE_P(Wires, Failure, ::testing::ValuesIn(settings({3})), name_of);

}  // namespace
}  // namespace gearshift::collectives::testing
