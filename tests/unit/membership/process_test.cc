// Failure detection between real processes: what a kill -9, a kill -STOP and a kill -CONT do.
//
// The program starts itself once per rank; a rank prints how it ended to a file.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "gearshift/group/connect.h"
#include "gearshift/membership/monitor.h"
#include "gearshift/rendezvous/file/factory.h"
#include "gearshift/transport/tcp/factory.h"
#include "unit/rendezvous/testing.h"

extern char** environ;

namespace gearshift::membership {
namespace {

using base::Error;
using base::ErrorCode;
using base::Rank;
using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::HasSubstr;

constexpr int kSize = 4;
constexpr base::Duration kTimeout = seconds(4);

/// One rank: passes a number around a ring until something fails; returns what the account says.
base::Status play_rank(base::Scheduler& scheduler, int rank, const std::string& directory) {
  GEARSHIFT_ASSIGN_OR_RETURN(auto store, rendezvous::file::open(scheduler, directory));
  auto router = std::make_shared<transport::Router>(scheduler);
  const transport::Identity identity{Rank(rank), base::Generation(1), "token"};
  GEARSHIFT_ASSIGN_OR_RETURN(std::shared_ptr<transport::Transport> tcp,
                             transport::tcp::create(scheduler, router, identity));
  group::ConnectOptions options;
  options.rank = Rank(rank);
  options.size = kSize;
  options.timeout = seconds(30);
  GEARSHIFT_ASSIGN_OR_RETURN(auto group, group::connect(scheduler, router, *store, {tcp}, options));
  // Connecting may take long on a busy machine; from here on the short timeout counts.
  group->context()->timeout = kTimeout;
  auto monitor = Monitor::start(*group);
  GEARSHIFT_RETURN_IF_ERROR(store->set("running/" + std::to_string(rank), "yes"));

  for (std::int64_t step = 0;; ++step) {
    group->progress().set_step(base::Step(step));
    const group::ProgressScope scope(group->progress(), "ring");
    const transport::Tag tag(0, group->next_sequence(), 0);
    std::int64_t in = 0;
    const auto sent = group->link(Rank((rank + 1) % kSize)).send(tag, base::bytes_of(step));
    const auto got =
        group->link(Rank((rank + kSize - 1) % kSize)).recv(tag, base::writable_bytes_of(in));
    const base::Status first = got.wait(scheduler.after(seconds(20)));
    const base::Status second = sent.wait(scheduler.after(seconds(20)));
    if (!first || !second) return monitor->explain(first ? second.error() : first.error());
    scheduler.sleep_for(milliseconds(5));
  }
}

class ProcessTest : public ::testing::Test {
 protected:
  void SetUp() override {
    store_ = std::move(rendezvous::file::open(*scheduler_, directory_.path())).value();
    for (int r = 0; r < kSize; ++r) pids_.push_back(start(r));
    for (int r = 0; r < kSize; ++r) {
      ASSERT_TRUE(store_->get("running/" + std::to_string(r), scheduler_->after(seconds(30))));
    }
    scheduler_->sleep_for(kTimeout / 4);
  }
  void TearDown() override {
    for (const pid_t pid : pids_) {
      if (pid > 0) ::kill(pid, SIGKILL);
    }
    for (const pid_t pid : pids_) {
      if (pid > 0) ::waitpid(pid, nullptr, 0);
    }
  }

  pid_t start(int rank) const {
    ::setenv("GEARSHIFT_TEST_RANK", std::to_string(rank).c_str(), 1);
    ::setenv("GEARSHIFT_TEST_STORE", directory_.path().c_str(), 1);
    std::string program = std::filesystem::read_symlink("/proc/self/exe").string();
    char* arguments[] = {program.data(), nullptr};
    pid_t pid = -1;
    EXPECT_EQ(::posix_spawn(&pid, program.c_str(), nullptr, nullptr, arguments, environ), 0);
    ::unsetenv("GEARSHIFT_TEST_RANK");
    return pid;
  }

  /// What a rank said when it ended; waits for that.
  std::string last_words(int rank, base::Duration within) {
    auto said = store_->get("ended/" + std::to_string(rank), scheduler_->after(within));
    return said ? *said : "rank " + std::to_string(rank) + " still runs";
  }

  std::unique_ptr<base::Scheduler> scheduler_ = base::make_os_scheduler();
  gearshift::testing::TemporaryDirectory directory_;
  std::unique_ptr<rendezvous::Store> store_;
  std::vector<pid_t> pids_;
};

TEST_F(ProcessTest, KillIsSeenAtOnce) {
  ASSERT_EQ(::kill(pids_[2], SIGKILL), 0);
  for (const int r : {0, 1, 3}) {
    const std::string said = last_words(r, kTimeout);
    EXPECT_THAT(said, ::testing::StartsWith("peer_lost 2 rank 2 died"));
    EXPECT_THAT(said, HasSubstr("in ring at step"));
    EXPECT_THAT(said, HasSubstr("this rank " + std::to_string(r) + " was in ring at step"));
  }
}

TEST_F(ProcessTest, AFrozenProcessIsLostAfterTheTimeoutAndLearnsIt) {
  ASSERT_EQ(::kill(pids_[0], SIGSTOP), 0);
  const base::TimePoint start = scheduler_->now();
  for (const int r : {1, 2, 3}) {
    EXPECT_THAT(last_words(r, 2 * kTimeout),
                ::testing::StartsWith("peer_lost 0 rank 0 has been silent"));
  }
  EXPECT_LE(scheduler_->now() - start, kTimeout + kTimeout / 2);
  ASSERT_EQ(::kill(pids_[0], SIGCONT), 0);
  EXPECT_THAT(last_words(0, 2 * kTimeout), HasSubstr("gave up on this one"));
}

TEST_F(ProcessTest, AShortPauseOfAllAccusesNobody) {
  for (const pid_t pid : pids_) ASSERT_EQ(::kill(pid, SIGSTOP), 0);
  scheduler_->sleep_for(2 * kTimeout);
  for (const pid_t pid : pids_) ASSERT_EQ(::kill(pid, SIGCONT), 0);
  scheduler_->sleep_for(kTimeout / 2);
  for (int r = 0; r < kSize; ++r) {
    EXPECT_EQ(last_words(r, milliseconds(1)), "rank " + std::to_string(r) + " still runs");
  }
}

int rank_main(int rank, const std::string& directory) {
  auto scheduler = base::make_os_scheduler();
  const Error error = play_rank(*scheduler, rank, directory).error();
  auto store = rendezvous::file::open(*scheduler, directory);
  const std::string text = std::string(base::to_string(error.code)) + " " +
                           std::to_string(error.culprit) + " " + error.message;
  return store && (*store)->set("ended/" + std::to_string(rank), text) ? 0 : 1;
}

}  // namespace
}  // namespace gearshift::membership

int main(int argc, char** argv) {
  const char* rank = std::getenv("GEARSHIFT_TEST_RANK");
  const char* directory = std::getenv("GEARSHIFT_TEST_STORE");
  if (rank != nullptr && directory != nullptr) {
    return gearshift::membership::rank_main(std::atoi(rank), directory);
  }
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
