#include "gearshift/base/threads.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <system_error>

#include "support/few_threads.h"

namespace gearshift::base {
namespace {

using ::testing::HasSubstr;

TEST(SpawnPatiently, AsksAgainWhileThereIsNoThread) {
  gearshift::testing::FewThreads scheduler;
  scheduler.refusals = 4;
  std::atomic<bool> ran{false};
  spawn_patiently(scheduler, "late", [&] { ran = true; })->join();
  EXPECT_TRUE(ran);
  EXPECT_EQ(scheduler.refusals, 0);
}

TEST(SpawnPatiently, GivesUpInTheEnd) {
  gearshift::testing::FewThreads scheduler;
  scheduler.none_left = true;
  EXPECT_THROW((void)spawn_patiently(scheduler, "never", [] {}), std::system_error);
}

/// What a process of a common user says that may have `threads` threads, and no more.
std::string said_with(rlim_t threads) {
  int ends[2];
  EXPECT_EQ(::pipe(ends), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const rlimit limit{threads, threads};
    const bool common =
        (::geteuid() != 0 || ::setuid(12345) == 0) && ::setrlimit(RLIMIT_NPROC, &limit) == 0;
    const std::string said = common ? scarce_threads() : "no common user";
    ::_exit(::write(ends[1], said.data(), said.size()) > 0 ? 0 : 1);
  }
  ::close(ends[1]);
  std::string said(4096, ' ');
  said.resize(static_cast<std::size_t>(std::max<ssize_t>(0, ::read(ends[0], said.data(), 4096))));
  ::close(ends[0]);
  EXPECT_EQ(::waitpid(child, nullptr, 0), child);
  return said;
}

TEST(ScarceThreads, NamesTheLimitThatIsReached) {
  const std::string said = said_with(1);
  EXPECT_THAT(said, HasSubstr("this user may have 1 threads and processes (ulimit -u), and has "));
  EXPECT_THAT(said, HasSubstr("start fewer processes on this host"));
  EXPECT_THAT(said_with(1'000'000), ::testing::Not(HasSubstr("and has ")));
}

}  // namespace
}  // namespace gearshift::base
