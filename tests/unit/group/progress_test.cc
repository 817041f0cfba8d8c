#include <gtest/gtest.h>

#include "gearshift/group/group.h"

namespace gearshift::group {
namespace {

TEST(Progress, ShowsTheYoungestOperationThatStillRuns) {
  auto scheduler = base::make_os_scheduler();
  Progress progress(*scheduler);
  EXPECT_EQ(progress.snapshot().operation, "idle");
  EXPECT_EQ(progress.snapshot().previous, "");
  progress.set_step(base::Step(41));
  const auto first = progress.begin("bucket 0");
  const auto second = progress.begin("bucket 1");
  EXPECT_EQ(progress.snapshot().operation, "bucket 1");
  progress.end(first);
  EXPECT_EQ(progress.snapshot().operation, "bucket 1");
  progress.end(second);
  EXPECT_EQ(progress.snapshot().operation, "idle");
  EXPECT_EQ(progress.snapshot().previous, "bucket 1");
  EXPECT_EQ(progress.snapshot().step, 41);
  progress.end(second);
  EXPECT_EQ(progress.snapshot().previous, "bucket 1");
}

TEST(Progress, GoesOnToShowWhatWasGivenUpUntilAnotherBegins) {
  auto scheduler = base::make_os_scheduler();
  Progress progress(*scheduler);
  { const ProgressScope done(progress, "done"); }
  {
    const ProgressScope waits(progress, "barrier");
    waits.give_up();
    EXPECT_EQ(progress.snapshot().operation, "barrier");
  }
  EXPECT_EQ(progress.snapshot().operation, "barrier");
  EXPECT_EQ(progress.snapshot().previous, "done");
  { const ProgressScope next(progress, "next"); }
  EXPECT_EQ(progress.snapshot().operation, "idle");
  EXPECT_EQ(progress.snapshot().previous, "next");
}

TEST(Progress, ScopesNest) {
  auto scheduler = base::make_os_scheduler();
  Progress progress(*scheduler);
  {
    const ProgressScope outer(progress, "outer");
    const base::TimePoint since = progress.snapshot().since;
    {
      const ProgressScope inner(progress, "inner");
      EXPECT_EQ(progress.snapshot().operation, "inner");
      EXPECT_GE(progress.snapshot().since, since);
    }
    EXPECT_EQ(progress.snapshot().operation, "outer");
    EXPECT_EQ(progress.snapshot().since, since);
  }
  EXPECT_EQ(progress.snapshot().operation, "idle");
}

}  // namespace
}  // namespace gearshift::group
