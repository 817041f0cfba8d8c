#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <functional>
#include <mutex>
#include <vector>

#include "gearshift/transport/host_sync.h"
#include "gearshift/transport/shared_region.h"
#include "gearshift/transport/shm/factory.h"

namespace gearshift::transport::shm {
namespace {

using base::ErrorCode;

constexpr std::size_t kAddressBytes = 512;
constexpr std::size_t kLarge = 64 << 20;
/// Much more than a ring, for a peer that sends without end.
constexpr std::size_t kEndless = 8 << 20;

base::TimePoint after(const base::Scheduler& scheduler, int seconds) {
  return scheduler.after(std::chrono::seconds(seconds));
}

/// One side of a pair of processes: rank 0 is the test, rank 1 its child.
struct Side {
  std::unique_ptr<base::Scheduler> scheduler = base::make_os_scheduler();
  std::shared_ptr<Router> router = std::make_shared<Router>(*scheduler);
  std::unique_ptr<Transport> transport;
  std::unique_ptr<Connection> link;

  base::TimePoint soon() const { return after(*scheduler, 60); }
};

std::byte expected_byte(std::size_t at, int seed) {
  return static_cast<std::byte>((at * 31 + static_cast<std::size_t>(seed)) >> 3);
}

bool is_pattern(base::ConstBytes bytes, int seed) {
  for (std::size_t i = 0; i < bytes.size(); i += 997) {
    if (bytes[i] != expected_byte(i, seed)) return false;
  }
  return true;
}

std::vector<std::byte> pattern(std::size_t size, int seed) {
  std::vector<std::byte> bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = expected_byte(i, seed);
  return bytes;
}

class ShmProcessTest : public ::testing::Test {
 protected:
  /// Forks, before any thread runs, a child that connects to the test and then runs `body`; its
  /// exit status is the number that `body` returns.
  void start(const std::function<int(Side&)>& body) {
    int sockets[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
    child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      ::close(sockets[0]);
      ::_exit(run_child(sockets[1], body));
    }
    ::close(sockets[1]);
    here.emplace();
    here->transport = make_transport(*here, 0);
    char address[kAddressBytes] = {};
    const std::string own = here->transport->address();
    std::memcpy(address, own.data(), own.size());
    ASSERT_EQ(::write(sockets[0], address, sizeof address), ssize_t{kAddressBytes});
    auto accepted = here->transport->accept(base::Rank(1), here->soon());
    ASSERT_TRUE(accepted.ok()) << accepted.error().to_string();
    here->link = *std::move(accepted);
    ::close(sockets[0]);
  }

  static int run_child(int socket, const std::function<int(Side&)>& body) {
    Side side;
    side.transport = make_transport(side, 1);
    char address[kAddressBytes + 1] = {};
    if (::recv(socket, address, kAddressBytes, MSG_WAITALL) != ssize_t{kAddressBytes}) return 101;
    auto connected = side.transport->connect(base::Rank(0), address, side.soon());
    if (!connected) return 102;
    side.link = *std::move(connected);
    return body(side);
  }

  static std::unique_ptr<Transport> make_transport(Side& side, int rank) {
    return *create(*side.scheduler, side.router, {.rank = base::Rank(rank), .token = "secret"});
  }

  int exit_status() {
    int status = -1;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    child = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

  /// Waits until some of a large body has come.
  void wait_for_traffic() {
    while (here->link->traffic().bytes_received < 1000) {
      here->scheduler->sleep_for(std::chrono::milliseconds(1));
    }
  }

  /// Stops the child, and returns once it stands still: what is sent from now on is not taken.
  void freeze() {
    ::kill(child, SIGSTOP);
    int status = -1;
    ASSERT_EQ(::waitpid(child, &status, WUNTRACED), child);
    ASSERT_TRUE(WIFSTOPPED(status));
  }

  void TearDown() override {
    here.reset();
    if (child > 0) {
      ::kill(child, SIGKILL);
      ::kill(child, SIGCONT);
      exit_status();
    }
  }

  std::optional<Side> here;
  pid_t child = 0;
};

TEST_F(ShmProcessTest, LargeBodiesBothWaysAtOnce) {
  start([](Side& side) {
    std::vector<std::byte> got(kLarge);
    const auto sent = pattern(kLarge, 1);
    Request recv = side.link->recv(Tag(1, 1, 0), got);
    Request send = side.link->send(Tag(1, 1, 0), sent);
    if (!recv.wait(side.soon()) || !send.wait(side.soon())) return 1;
    if (!is_pattern(got, 0)) return 2;
    side.link->close(side.soon());
    return 0;
  });
  const auto sent = pattern(kLarge, 0);
  std::vector<std::byte> got(kLarge);
  Request recv = here->link->recv(Tag(1, 1, 0), got);
  Request send = here->link->send(Tag(1, 1, 0), sent);
  EXPECT_TRUE(recv.wait(here->soon()).ok());
  EXPECT_TRUE(send.wait(here->soon()).ok());
  EXPECT_TRUE(is_pattern(got, 1));
  EXPECT_EQ(exit_status(), 0);
}

TEST_F(ShmProcessTest, PingPongAndARegion) {
  constexpr std::uint32_t kRounds = 2000;
  start([](Side& side) {
    for (std::uint32_t i = 0; i < kRounds; ++i) {
      std::uint32_t got = 0;
      if (!side.link->recv(Tag(1, i, 0), base::writable_bytes_of(got)).wait(side.soon())) return 1;
      ++got;
      if (!side.link->send(Tag(1, i, 0), base::bytes_of(got)).wait(side.soon())) return 2;
    }
    auto region = side.link->accept_region(9, side.soon());
    if (!region) return 3;
    (*region)->view()[5000] = std::byte{77};
    side.link->close(side.soon());
    return 0;
  });
  for (std::uint32_t i = 0; i < kRounds; ++i) {
    std::uint32_t got = 0;
    Request recv = here->link->recv(Tag(1, i, 0), base::writable_bytes_of(got));
    ASSERT_TRUE(here->link->send(Tag(1, i, 0), base::bytes_of(i)).wait(here->soon()).ok());
    ASSERT_TRUE(recv.wait(here->soon()).ok());
    ASSERT_EQ(got, i + 1);
  }
  auto region = SharedRegion::create(10'000);
  ASSERT_TRUE(region.ok());
  ASSERT_TRUE(here->link->offer_region(9, **region).ok());
  EXPECT_EQ(exit_status(), 0);
  EXPECT_EQ((*region)->view()[5000], std::byte{77});
}

TEST_F(ShmProcessTest, APeerKilledInTheMiddleOfATransferIsALoss) {
  start([](Side& side) {
    const auto sent = pattern(kEndless, 1);
    for (std::uint32_t i = 0;; ++i) {
      if (!side.link->send(Tag(1, i, 0), sent).wait(side.soon())) return 1;
    }
    return 0;
  });
  std::atomic<int> losses{0};
  here->router->on_lost([&](base::Rank peer, const base::Error& error) {
    EXPECT_EQ(peer, base::Rank(1));
    EXPECT_EQ(error.code, ErrorCode::kPeerLost);
    ++losses;
  });
  std::vector<std::byte> got(kEndless);
  Request recv = here->link->recv(Tag(2, 0, 0), got);
  Request first = here->link->recv(Tag(1, 0, 0), got);
  wait_for_traffic();
  freeze();  // or it may take the whole of what is sent before the signal comes
  const auto waiting = pattern(kEndless, 0);
  Request send = here->link->send(Tag(2, 0, 0), waiting);
  ::kill(child, SIGKILL);
  EXPECT_EQ(exit_status(), -SIGKILL);
  for (const Request& request : {recv, send}) {
    const auto status = request.wait(here->soon());
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().code, ErrorCode::kPeerLost);
    EXPECT_EQ(status.error().culprit, 1);
  }
  (void)first.wait(here->soon());  // it may have come whole before
  while (losses == 0) here->scheduler->sleep_for(std::chrono::milliseconds(1));
  here->scheduler->sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(losses, 1);
  here->router->on_lost({});
}

TEST_F(ShmProcessTest, AbortNeedsNothingFromAFrozenPeer) {
  start([](Side& side) {
    const auto sent = pattern(kEndless, 1);
    for (std::uint32_t i = 0;; ++i) {
      if (!side.link->send(Tag(1, i, 0), sent).wait(side.soon())) return 1;
    }
    return 0;
  });
  std::vector<std::byte> got(kEndless);
  Request recv = here->link->recv(Tag(2, 0, 0), got);
  Request first = here->link->recv(Tag(1, 0, 0), got);
  wait_for_traffic();
  freeze();
  const auto waiting = pattern(kEndless, 0);
  Request send = here->link->send(Tag(2, 0, 0), waiting);
  const auto late = here->scheduler->after(std::chrono::milliseconds(50));
  EXPECT_EQ(recv.wait(late).error().code, ErrorCode::kTimeout) << "deadlines hold all the same";
  Request again = here->link->recv(Tag(2, 1, 0), got);
  here->link->abort({ErrorCode::kAborted, "the other is frozen"});
  EXPECT_TRUE(again.done());
  EXPECT_TRUE(send.done());
  EXPECT_EQ(again.wait(here->soon()).error().code, ErrorCode::kAborted);
  EXPECT_EQ(send.wait(here->soon()).error().code, ErrorCode::kAborted);
  here->link.reset();
  ::kill(child, SIGCONT);
  EXPECT_EQ(exit_status(), 1) << "the peer sees the end as soon as it runs again";
}

TEST_F(ShmProcessTest, LeavesNothingBehindInTheFileSystem) {
  const auto entries = [] {
    std::vector<std::string> names;
    std::error_code absent;
    for (const auto& entry : std::filesystem::directory_iterator("/dev/shm", absent)) {
      if (entry.path().filename().string().find("gearshift") != std::string::npos) {
        names.push_back(entry.path().string());
      }
    }
    return names;
  };
  const auto before = entries();
  start([](Side&) -> int {
    ::raise(SIGKILL);
    return 0;
  });
  EXPECT_EQ(exit_status(), -SIGKILL);
  EXPECT_EQ(entries(), before);
}

TEST_F(ShmProcessTest, HostSyncMeetsAcrossProcessesAndSurvivesADeath) {
  constexpr int kRanks = 3;
  auto region = SharedRegion::create(HostSync::bytes_needed(kRanks));
  ASSERT_TRUE(region.ok());
  std::vector<pid_t> children;
  for (int rank = 1; rank < kRanks; ++rank) {
    const pid_t pid = ::fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) {
      const auto scheduler = base::make_os_scheduler();
      auto sync = *HostSync::join(*scheduler, (*region)->view(), kRanks, rank);
      for (int i = 0; i < 500; ++i) {
        if (!sync->barrier(after(*scheduler, 60))) ::_exit(1);
      }
      if (rank == 2) ::raise(SIGKILL);
      const auto status = sync->barrier(after(*scheduler, 60));
      ::_exit(!status.ok() && status.error().code == ErrorCode::kAborted ? 0 : 2);
    }
    children.push_back(pid);
  }
  const auto scheduler = base::make_os_scheduler();
  auto sync = *HostSync::join(*scheduler, (*region)->view(), kRanks, 0);
  for (int i = 0; i < 500; ++i) ASSERT_TRUE(sync->barrier(after(*scheduler, 60)).ok());
  ASSERT_TRUE(sync->wait_for(1, sync->reached(0) + 1, after(*scheduler, 60)).ok());
  const auto status = sync->barrier(scheduler->after(std::chrono::milliseconds(50)));
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kTimeout);
  EXPECT_EQ(status.error().culprit, 2);
  sync->abort(2);
  int result = -1;
  ASSERT_EQ(::waitpid(children[0], &result, 0), children[0]);
  EXPECT_TRUE(WIFEXITED(result) && WEXITSTATUS(result) == 0);
  ASSERT_EQ(::waitpid(children[1], &result, 0), children[1]);
}

}  // namespace
}  // namespace gearshift::transport::shm
