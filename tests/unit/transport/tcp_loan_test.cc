#include <gtest/gtest.h>

#include "transport/tcp/loan.h"

namespace gearshift::transport::tcp {
namespace {

using base::Duration;
using std::chrono::microseconds;

struct LoanTest : ::testing::Test {
  Loan loan;
  base::TimePoint now = base::TimePoint{} + std::chrono::seconds(1);
};

TEST_F(LoanTest, OneAtATimeHasIt) {
  EXPECT_FALSE(loan.lent());
  EXPECT_FALSE(loan.refuses(now));
  loan.take();
  EXPECT_TRUE(loan.lent());
  EXPECT_FALSE(loan.idle());
  EXPECT_TRUE(loan.refuses(now));
  loan.leave(now);
  EXPECT_TRUE(loan.lent());
  EXPECT_TRUE(loan.idle());
  EXPECT_FALSE(loan.refuses(now));
  loan.end();
  EXPECT_FALSE(loan.lent());
  EXPECT_FALSE(loan.idle());
}

TEST_F(LoanTest, ItLiesIdleForAWhileAfterTheLastWait) {
  loan.take();
  loan.leave(now);
  EXPECT_EQ(loan.left(now + microseconds(100)), Loan::kIdle - microseconds(100));
  loan.take();
  loan.leave(now + microseconds(300));
  EXPECT_EQ(loan.left(now + microseconds(400)), Loan::kIdle - microseconds(100));
  EXPECT_LE(loan.left(now + microseconds(300) + Loan::kIdle), Duration::zero());
}

TEST_F(LoanTest, AfterSomebodyWasKeptWaitingItIsNotLentForAWhile) {
  loan.pause(now);
  EXPECT_TRUE(loan.refuses(now));
  EXPECT_TRUE(loan.refuses(now + (Loan::kPause - microseconds(1))));
  EXPECT_FALSE(loan.refuses(now + Loan::kPause));
}

TEST_F(LoanTest, OneAlarmIsSetAtATime) {
  EXPECT_TRUE(loan.wants_alarm());
  EXPECT_FALSE(loan.wants_alarm());
  loan.alarm_rang();
  EXPECT_TRUE(loan.wants_alarm());
}

}  // namespace
}  // namespace gearshift::transport::tcp
