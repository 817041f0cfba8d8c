#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "gearshift/transport/host_sync.h"
#include "gearshift/transport/shared_region.h"

namespace gearshift::transport {
namespace {

using base::ErrorCode;

class HostSyncTest : public ::testing::Test {
 protected:
  /// Everybody of `n`, over one mapping, so that a race detector sees what they share.
  std::vector<std::unique_ptr<HostSync>> meet(int n) {
    region = *SharedRegion::create(HostSync::bytes_needed(n));
    std::vector<std::unique_ptr<HostSync>> all;
    for (int i = 0; i < n; ++i) {
      auto joined = HostSync::join(*scheduler, region->view(), n, i);
      EXPECT_TRUE(joined.ok());
      all.push_back(*std::move(joined));
    }
    return all;
  }
  base::TimePoint soon() const { return scheduler->after(std::chrono::seconds(60)); }
  base::TimePoint shortly() const { return scheduler->after(std::chrono::milliseconds(20)); }

  std::unique_ptr<base::Scheduler> scheduler = base::make_os_scheduler();
  std::unique_ptr<SharedRegion> region;
};

TEST_F(HostSyncTest, RefusesImpossibleArguments) {
  region = *SharedRegion::create(HostSync::bytes_needed(2));
  const auto code = [&](base::Bytes memory, int n, int self) {
    auto joined = HostSync::join(*scheduler, memory, n, self);
    return !joined.ok() && joined.error().code == ErrorCode::kInvalidArgument;
  };
  EXPECT_TRUE(code(region->view(), 2, 2));
  EXPECT_TRUE(code(region->view(), 2, -1));
  EXPECT_TRUE(code(region->view(), 0, 0));
  EXPECT_TRUE(code(region->view(), 1000, 0)) << "too small";
  EXPECT_TRUE(code(region->view().subspan(8), 1, 0)) << "misaligned";
}

TEST_F(HostSyncTest, ABarrierOrdersWhatIsWrittenAround) {
  constexpr int kRanks = 4;
  constexpr int kRounds = 500;
  auto all = meet(kRanks);
  std::vector<int> written(kRanks, -1);  // plain memory: only the barriers order it
  std::atomic<int> wrong{0};
  {
    std::vector<std::jthread> threads;
    for (int me = 0; me < kRanks; ++me) {
      threads.emplace_back([&, me] {
        for (int round = 0; round < kRounds; ++round) {
          written[static_cast<std::size_t>(me)] = round;
          if (!all[static_cast<std::size_t>(me)]->barrier(soon())) ++wrong;
          for (const int value : written) wrong += value != round;
          if (!all[static_cast<std::size_t>(me)]->barrier(soon())) ++wrong;
        }
      });
    }
  }
  EXPECT_EQ(wrong, 0);
}

TEST_F(HostSyncTest, TimeoutNamesWhoIsMissing) {
  auto all = meet(3);
  all[0]->arrive(1);
  all[1]->arrive(1);
  EXPECT_TRUE(all[0]->wait_for(1, 1, shortly()).ok());
  const auto status = all[0]->wait_for_all(1, shortly());
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kTimeout);
  EXPECT_EQ(status.error().culprit, 2);
  all[2]->arrive(1);
  EXPECT_TRUE(all[0]->wait_for_all(1, shortly()).ok()) << "a timeout breaks nothing";
}

TEST_F(HostSyncTest, ASleeperWakesWhenTheOtherArrivesLate) {
  auto all = meet(2);
  std::jthread late([&] {
    scheduler->sleep_for(std::chrono::milliseconds(20));
    all[1]->arrive(7);
  });
  EXPECT_TRUE(all[0]->wait_for(1, 7, soon()).ok());
}

TEST_F(HostSyncTest, WhoSleepsAtOnceIsWokenAndKeepsTheDeadline) {
  using Patience = HostSync::Patience;
  auto all = meet(2);
  const auto status = all[0]->wait_for(1, 1, shortly(), Patience::kSleep);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kTimeout);
  std::jthread late([&] {
    for (std::uint64_t value = 1; value <= 100; ++value) {
      all[1]->arrive(value);
      EXPECT_TRUE(all[1]->wait_for(0, value, soon(), Patience::kSleep).ok());
    }
  });
  for (std::uint64_t value = 1; value <= 100; ++value) {
    EXPECT_TRUE(all[0]->wait_for(1, value, soon(), Patience::kSleep).ok());
    all[0]->arrive(value);
  }
}

TEST_F(HostSyncTest, AbortWakesEverybodyForGood) {
  auto all = meet(3);
  {
    std::vector<std::jthread> waiters;
    for (int i : {0, 1}) {
      waiters.emplace_back([&, i] {
        const auto status = all[static_cast<std::size_t>(i)]->barrier(soon());
        ASSERT_FALSE(status.ok());
        EXPECT_EQ(status.error().code, ErrorCode::kAborted);
        EXPECT_EQ(status.error().culprit, 2);
      });
    }
    scheduler->sleep_for(std::chrono::milliseconds(10));
    all[0]->abort(2);
    all[1]->abort(1);
  }
  EXPECT_TRUE(all[2]->aborted());
  const auto status = all[2]->barrier(soon());
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().culprit, 2) << "the first call counts";
}

}  // namespace
}  // namespace gearshift::transport
