#include "gearshift/membership/monitor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <system_error>

#include "support/few_threads.h"
#include "support/groups.h"

namespace gearshift::membership {
namespace {

using base::Error;
using base::ErrorCode;
using base::Rank;
using gearshift::testing::make_groups;
using gearshift::testing::run_ranks;
using gearshift::testing::Wire;
using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::AnyOf;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

/// Ranks with monitors, as tasks of this process. `timeout_` is short where silence is tested.
class MonitorTest : public ::testing::TestWithParam<Wire> {
 protected:
  void make(int size, base::Duration timeout) {
    groups_ = make_groups(*scheduler_, GetParam(), size, timeout);
    monitors_.resize(groups_.size());
    for (std::size_t r = 0; r < groups_.size(); ++r) monitors_[r] = Monitor::start(*groups_[r]);
  }
  void TearDown() override {
    run_ranks(*scheduler_, static_cast<int>(groups_.size()), [this](int rank) {
      const auto r = static_cast<std::size_t>(rank);
      if (monitors_[r]) monitors_[r]->stop();
      groups_[r]->close(scheduler_->after(seconds(5)));
    });
    monitors_.clear();
  }

  int size() const { return static_cast<int>(groups_.size()); }
  group::Group& group(int rank) { return *groups_[static_cast<std::size_t>(rank)]; }
  Monitor& monitor(int rank) { return *monitors_[static_cast<std::size_t>(rank)]; }

  /// As if the process of `rank` had been killed: all its connections break, nothing is said.
  void kill(int rank) {
    group(rank).abort({ErrorCode::kIo, "killed by the test"});
    monitors_[static_cast<std::size_t>(rank)].reset();
  }

  /// Waits for a message that never comes, like a collective whose peer is gone.
  Error fail_at_waiting(int rank, int peer, const std::string& operation) {
    const group::ProgressScope scope(group(rank).progress(), operation);
    int value = 0;
    const auto request =
        group(rank).link(Rank(peer)).recv({0, 1, 0}, base::writable_bytes_of(value));
    const base::Status status = request.wait(scheduler_->after(seconds(20)));
    EXPECT_FALSE(status);
    return status ? Error(ErrorCode::kInvalidArgument, "no error") : status.error();
  }

  std::optional<Error> await_failure(int rank) {
    const base::TimePoint deadline = scheduler_->after(seconds(20));
    while (!monitor(rank).failure() && scheduler_->now() < deadline) {
      scheduler_->sleep_for(milliseconds(5));
    }
    return monitor(rank).failure();
  }

  void await(const std::function<bool()>& condition) {
    const base::TimePoint deadline = scheduler_->after(seconds(20));
    while (!condition()) {
      ASSERT_LT(scheduler_->now(), deadline);
      scheduler_->sleep_for(milliseconds(5));
    }
  }
  /// Waits until `rank` is in this operation.
  void await_operation(int rank, const std::string& operation) {
    await([&] { return group(rank).progress().snapshot().operation == operation; });
  }
  /// Waits until `rank` has heard that `peer` is in this operation.
  void await_report(int rank, int peer, const std::string& operation) {
    const auto at = static_cast<std::size_t>(peer);
    await([&] { return monitor(rank).report()[at].operation == operation; });
  }

  std::unique_ptr<base::Scheduler> scheduler_ = base::make_os_scheduler();
  std::vector<std::unique_ptr<group::Group>> groups_;
  std::vector<std::unique_ptr<Monitor>> monitors_;
};

TEST_P(MonitorTest, AQuietGroupOfAnySizeStaysWhole) {
  for (const int n : {1, 2, 3, 5, 8}) {
    make(n, seconds(3));
    scheduler_->sleep_for(milliseconds(600));
    for (int r = 0; r < n; ++r) {
      EXPECT_EQ(monitor(r).failure(), std::nullopt);
      const auto report = monitor(r).report();
      ASSERT_EQ(report.size(), static_cast<std::size_t>(n));
      for (const PeerReport& one : report) EXPECT_TRUE(one.alive);
    }
    TearDown();
    groups_.clear();
  }
}

/// As at the limit of a container: the first thread must not wait for the second for ever.
TEST_P(MonitorTest, NeedsItsThreads) {
  gearshift::testing::FewThreads scheduler;
  auto groups = make_groups(scheduler, GetParam(), 2, seconds(3));
  for (const int spare : {0, 1}) {
    scheduler.spare = spare;
    EXPECT_THROW((void)Monitor::start(*groups[0]), std::system_error);
  }
  groups[0]->close(scheduler.after(milliseconds(100)));  // without threads, too
  groups.clear();
}

TEST_P(MonitorTest, ReportsHowFarEveryRankIs) {
  make(3, seconds(20));
  const base::TimePoint begin = scheduler_->now();
  group(1).progress().set_step(base::Step(41));
  const group::ProgressScope scope(group(1).progress(), "all_reduce bucket 3");
  await_report(0, 1, "all_reduce bucket 3");
  const PeerReport seen = monitor(0).report()[1];
  EXPECT_EQ(seen.rank, Rank(1));
  EXPECT_EQ(seen.step, 41);
  EXPECT_EQ(seen.operation, "all_reduce bucket 3");
  EXPECT_GT(seen.seconds_in_operation, 0);
  EXPECT_LE(seen.seconds_since_heard, base::to_seconds(scheduler_->now() - begin));
  const std::string text = monitor(0).report_text();
  EXPECT_THAT(text, HasSubstr("rank 0 (this rank): step 0, idle"));
  EXPECT_THAT(text, HasSubstr("rank 1: step 41, all_reduce bucket 3 for"));
  EXPECT_THAT(monitor(1).report_text(), HasSubstr("rank 1 (this rank): step 41"));
}

TEST_P(MonitorTest, WhoIsLateWithAMessageIsNotSaidToBeDead) {
  make(2, seconds(20));
  const Error late(ErrorCode::kTimeout, "no complete message from rank 1 in time", 1);
  group(0).link(Rank(1)).abort(late);
  group(0).router().report_lost(Rank(1), late);
  const auto failure = await_failure(0);
  ASSERT_TRUE(failure);
  EXPECT_EQ(failure->code, ErrorCode::kPeerLost);
  EXPECT_EQ(failure->culprit, 1);
  EXPECT_THAT(failure->message, HasSubstr("rank 1 did not send or take a message in time ("));
}

TEST_P(MonitorTest, EverySurvivorNamesTheDeadRankAndWhatAllDid) {
  make(5, seconds(20));
  for (int r = 0; r < 5; ++r) group(r).progress().set_step(base::Step(41));
  std::vector<std::optional<Error>> said(5);
  std::vector<base::Duration> after(5);  // the end of the operation
  base::TimePoint killed;
  run_ranks(*scheduler_, 5, [&](int rank) {
    if (rank == 2) {
      const group::ProgressScope scope(group(2).progress(), "all_reduce bucket 3");
      for (const int r : {0, 1, 3, 4}) {
        await_operation(r, "all_reduce bucket 3");
        await_report(r, 2, "all_reduce bucket 3");
      }
      killed = scheduler_->now();
      return kill(2);
    }
    // Only rank 3 waits for the dead one itself; 0 waits for 1, 1 for 4, 4 for 0.
    const int waits_for[] = {1, 4, -1, 2, 0};
    const Error error = fail_at_waiting(rank, waits_for[rank], "all_reduce bucket 3");
    said[static_cast<std::size_t>(rank)] = monitor(rank).explain(error);
    after[static_cast<std::size_t>(rank)] =
        scheduler_->now() - group(rank).progress().snapshot().since;
  });
  EXPECT_LT(scheduler_->now() - killed, seconds(5)) << "long before it would have been silent";
  for (const int r : {0, 1, 3, 4}) {
    const Error& error = *said[static_cast<std::size_t>(r)];
    // An operation that ended a moment before the account of it counts as the one that failed.
    const bool at_once = after[static_cast<std::size_t>(r)] <= milliseconds(100);
    const std::string was = at_once ? " was in " : " was (in|idle after) ";
    EXPECT_EQ(error.code, ErrorCode::kPeerLost);
    EXPECT_EQ(error.culprit, 2);
    EXPECT_THAT(error.message, HasSubstr("rank 2 died ("));
    EXPECT_THAT(error.message, HasSubstr("while it was in all_reduce bucket 3 at step 41"));
    EXPECT_THAT(error.message, ContainsRegex("this rank " + std::to_string(r) + was +
                                             "all_reduce bucket 3 at step 41"));
    for (int other = 0; other < 5; ++other) {
      EXPECT_THAT(error.message, HasSubstr("\n  rank " + std::to_string(other)));
    }
    EXPECT_THAT(error.message, HasSubstr("rank 2 LOST: step 41, all_reduce bucket 3"));
    EXPECT_EQ(monitor(r).failure()->culprit, 2);
    EXPECT_FALSE(monitor(r).report()[2].alive);
    EXPECT_TRUE(monitor(r).report()[4].alive);
  }
}

TEST_P(MonitorTest, AnyRankOfAnyGroupMayDie) {
  for (const int n : {2, 3, 8}) {
    for (const int victim : {0, n - 1}) {
      make(n, seconds(20));
      kill(victim);
      for (int r = 0; r < n; ++r) {
        if (r == victim) continue;
        const auto failure = await_failure(r);
        ASSERT_TRUE(failure) << n << " " << victim << " " << r;
        EXPECT_EQ(failure->culprit, victim);
        EXPECT_EQ(failure->code, ErrorCode::kPeerLost);
      }
      TearDown();
      groups_.clear();
    }
  }
}

TEST_P(MonitorTest, WhenTwoDieEverythingStillEnds) {
  make(5, seconds(20));
  run_ranks(*scheduler_, 5, [&](int rank) {
    if (rank == 1 || rank == 3) return kill(rank);
    const int waits_for = rank == 4 ? 2 : 4;
    const Error said = monitor(rank).explain(fail_at_waiting(rank, waits_for, "barrier"));
    EXPECT_EQ(said.code, ErrorCode::kPeerLost);
    EXPECT_THAT(said.culprit, AnyOf(1, 3));
  });
}

TEST_P(MonitorTest, ASilentPeerIsFoundWithinTheTimeout) {
  const base::Duration timeout = seconds(4);
  groups_ = make_groups(*scheduler_, GetParam(), 3, timeout);
  monitors_.resize(3);
  const base::TimePoint start = scheduler_->now();
  monitors_[0] = Monitor::start(*groups_[0]);
  monitors_[2] = Monitor::start(*groups_[2]);
  run_ranks(*scheduler_, 3, [&](int rank) {
    if (rank == 1) return;
    const Error said = monitor(rank).explain(fail_at_waiting(rank, 2 - rank, "barrier"));
    EXPECT_EQ(said.code, ErrorCode::kPeerLost);
    EXPECT_EQ(said.culprit, 1);
    EXPECT_THAT(said.message, HasSubstr("rank 1 has been silent for"));
    EXPECT_THAT(said.message, HasSubstr("before it reported any progress"));
    const base::Duration taken = scheduler_->now() - start;
    EXPECT_GE(taken, timeout);
    EXPECT_LE(taken, timeout + timeout / 2);
  });
}

TEST_P(MonitorTest, AMessageUnderWayCountsAsALifeSign) {
  // Rank 1 has no monitor, but keeps sending data.
  groups_ = make_groups(*scheduler_, GetParam(), 2, seconds(2));
  monitors_.resize(2);
  monitors_[0] = Monitor::start(*groups_[0]);
  for (std::uint32_t i = 0; i < 40; ++i) {  // twice as long as the timeout in all
    ASSERT_TRUE(
        group(1).link(Rank(0)).send({0, i, 0}, base::bytes_of(i)).wait(group(1).deadline()));
    scheduler_->sleep_for(milliseconds(100));
  }
  EXPECT_EQ(monitor(0).failure(), std::nullopt);
}

TEST_P(MonitorTest, AReportedErrorReachesEveryRank) {
  make(3, seconds(20));
  run_ranks(*scheduler_, 3, [&](int rank) {
    if (rank == 1) {
      for (const int r : {0, 2}) await_operation(r, "barrier");
      monitor(1).fail({ErrorCode::kIo, "disk is full"});
      const auto own = monitor(1).failure();
      ASSERT_TRUE(own);
      EXPECT_EQ(own->code, ErrorCode::kIo);
      EXPECT_EQ(own->culprit, 1);
      EXPECT_THAT(own->message, HasSubstr("disk is full"));
      return;
    }
    const Error said = monitor(rank).explain(fail_at_waiting(rank, 2 - rank, "barrier"));
    EXPECT_EQ(said.code, ErrorCode::kAborted);
    EXPECT_EQ(said.culprit, 1);
    EXPECT_THAT(said.message, HasSubstr("rank 1 reported io: disk is full"));
    EXPECT_THAT(said.message, HasSubstr("was in barrier"));
  });
}

TEST_P(MonitorTest, DivergenceAndMismatchKeepTheirCode) {
  for (const ErrorCode code : {ErrorCode::kDiverged, ErrorCode::kMismatch}) {
    make(3, seconds(20));
    monitor(0).fail({code, "told by rank 0"});
    for (const int r : {1, 2}) {
      const auto failure = await_failure(r);
      ASSERT_TRUE(failure);
      EXPECT_EQ(failure->code, code);
      EXPECT_EQ(failure->culprit, 0);
      EXPECT_THAT(failure->message, HasSubstr("told by rank 0"));
    }
    TearDown();
    groups_.clear();
  }
}

TEST_P(MonitorTest, ALossSeenByTheCallerBlamesTheLostRank) {
  make(3, seconds(20));
  monitor(0).fail({ErrorCode::kPeerLost, "shard does not answer", 2});
  const auto failure = await_failure(1);
  ASSERT_TRUE(failure);
  EXPECT_EQ(failure->code, ErrorCode::kPeerLost);
  EXPECT_EQ(failure->culprit, 2);
  const auto blamed = await_failure(2);
  ASSERT_TRUE(blamed);
  EXPECT_EQ(blamed->code, ErrorCode::kAborted);
  EXPECT_THAT(blamed->message, HasSubstr("gave up on this one"));
}

TEST_P(MonitorTest, WhatThisProcessLacksIsNoFaultOfThePeer) {
  make(3, seconds(20));
  group(0).router().report_lost(Rank(1), {ErrorCode::kIo, "no memory for a message"});
  const auto own = await_failure(0);
  ASSERT_TRUE(own);
  EXPECT_EQ(own->code, ErrorCode::kIo);
  EXPECT_EQ(own->culprit, 0);
  for (const int r : {1, 2}) {
    const auto failure = await_failure(r);
    ASSERT_TRUE(failure);
    EXPECT_EQ(failure->culprit, 0);
    EXPECT_THAT(failure->message, HasSubstr("rank 0 reported io: no memory for a message"));
    EXPECT_THAT(failure->message, Not(HasSubstr("LOST")));
  }
}

TEST_P(MonitorTest, OnlyTheFirstErrorCounts) {
  make(2, seconds(20));
  monitor(0).fail({ErrorCode::kDiverged, "first"});
  monitor(0).fail({ErrorCode::kIo, "second"});
  EXPECT_EQ(monitor(0).failure()->code, ErrorCode::kDiverged);
  EXPECT_THAT(monitor(0).failure()->message, Not(HasSubstr("second")));
}

TEST_P(MonitorTest, WhoHasFinishedIsNotLostButWaitingForItIsAnError) {
  make(3, seconds(2));
  group(1).progress().set_step(base::Step(10));
  monitor(1).stop();
  group(1).close(scheduler_->after(seconds(5)));
  scheduler_->sleep_for(seconds(3));
  EXPECT_EQ(monitor(0).failure(), std::nullopt);
  EXPECT_EQ(monitor(2).failure(), std::nullopt);
  group(0).progress().set_step(base::Step(12));
  const Error said = monitor(0).explain(fail_at_waiting(0, 1, "barrier"));
  EXPECT_EQ(said.culprit, 1);
  EXPECT_THAT(said.message, HasSubstr("rank 1 has already finished"));
  EXPECT_THAT(said.message, HasSubstr("rank 1: step 10, finished"));
  EXPECT_THAT(said.message, HasSubstr("at step 12"));
  // The rest of the group still watches each other.
  kill(2);
  const auto failure = await_failure(0);
  ASSERT_TRUE(failure);
  EXPECT_EQ(failure->culprit, 2);
}

TEST_P(MonitorTest, AnErrorBecauseOfWhoHasFinishedIsExplainedAtOnce) {
  make(2, seconds(20));
  monitor(1).stop();
  group(1).close(scheduler_->after(seconds(5)));
  await([&] { return monitor(0).report_text().find("finished") != std::string::npos; });
  const base::TimePoint start = scheduler_->now();
  const Error said = monitor(0).explain(fail_at_waiting(0, 1, "barrier"));
  EXPECT_LT(scheduler_->now() - start, seconds(5)) << "as long as an explanation is waited for";
  EXPECT_THAT(said.message, HasSubstr("rank 1 has already finished"));
}

/// Whose end may be seen before its word that it leaves is.
TEST_P(MonitorTest, AnErrorIsExplainedAsSoonAsItIsKnownThatItsRankHasFinished) {
  make(2, std::chrono::hours(24));
  Error said(ErrorCode::kInvalidArgument, "nothing");
  const auto task = scheduler_->spawn("explains", [&] {
    said = monitor(0).explain({ErrorCode::kClosed, "rank 1 closed the connection", 1});
  });
  scheduler_->sleep_for(milliseconds(50));
  monitor(1).stop();
  task->join();
  EXPECT_THAT(said.message, HasSubstr("rank 1 has already finished"));
}

TEST_P(MonitorTest, AGroupThatClosesWithoutStoppingLosesNobody) {
  make(3, seconds(2));
  run_ranks(*scheduler_, 3, [&](int rank) { group(rank).close(scheduler_->after(seconds(5))); });
  scheduler_->sleep_for(seconds(3));
  for (int r = 0; r < 3; ++r) EXPECT_EQ(monitor(r).failure(), std::nullopt);
}

TEST_P(MonitorTest, ExplainLeavesOtherErrorsAlone) {
  make(2, seconds(20));
  const Error wrong = monitor(0).explain({ErrorCode::kInvalidArgument, "size is odd"});
  EXPECT_EQ(wrong.code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(wrong.message, "size is odd");
}

TEST_P(MonitorTest, ATimeoutWithoutALossShowsWhereEverybodyIs) {
  make(2, seconds(4));
  const group::ProgressScope scope(group(1).progress(), "push");
  await_report(0, 1, "push");
  const Error said = monitor(0).explain({ErrorCode::kTimeout, "barrier: nobody came"});
  EXPECT_EQ(said.code, ErrorCode::kTimeout);
  EXPECT_THAT(said.message, HasSubstr("barrier: nobody came\n"));
  EXPECT_THAT(said.message, HasSubstr("rank 1: step 0, push"));
}

TEST_P(MonitorTest, ExplainKeepsTheContextOfAnErrorThatTellsAll) {
  make(2, seconds(20));
  kill(1);
  const auto failure = await_failure(0);
  ASSERT_TRUE(failure);
  const Error said = monitor(0).explain(failure->within("all_reduce bucket 3"));
  EXPECT_THAT(said.message, ::testing::StartsWith("all_reduce bucket 3: rank 1 died"));
  EXPECT_EQ(said.culprit, 1);
}

TEST_P(MonitorTest, NonsenseOnTheServicesIsIgnored) {
  make(2, seconds(20));
  const std::vector<std::byte> nonsense(3, std::byte{0xFF});
  for (const std::uint16_t service : {transport::kHeartbeatService, transport::kAbortService}) {
    const transport::Tag tag(service, 1'000'000, 0);
    ASSERT_TRUE(group(1).link(Rank(0)).send(tag, nonsense, {}).wait(group(1).deadline()));
  }
  scheduler_->sleep_for(milliseconds(300));
  EXPECT_EQ(monitor(0).failure(), std::nullopt);
}

TEST_P(MonitorTest, StoppingTwiceAndFromTwoTasksIsFine) {
  make(2, seconds(20));
  run_ranks(*scheduler_, 2, [&](int) { monitor(0).stop(); });
  monitor(0).stop();
  monitor(0).fail({ErrorCode::kIo, "too late"});
  EXPECT_EQ(monitor(0).failure(), std::nullopt);
}

INSTANTIATE_TEST_SUITE_P(Wires, MonitorTest, ::testing::Values(Wire::kInproc, Wire::kTcp),
                         [](const auto& test) {
                           return gearshift::testing::to_string(test.param);
                         });

}  // namespace
}  // namespace gearshift::membership
