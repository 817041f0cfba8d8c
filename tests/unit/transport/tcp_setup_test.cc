#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include "gearshift/transport/tcp/factory.h"
#include "support/few_descriptors.h"
#include "support/jumping_clock.h"
#include "transport/tcp/acceptor.h"
#include "transport/tcp/setup.h"

namespace gearshift::transport::tcp {
namespace {

using base::Fd;
using base::Generation;
using base::Rank;
using gearshift::testing::JumpingClock;

class TcpSetupTest : public ::testing::Test {
 protected:
  static constexpr const char* kToken = "secret";

  Fd next_caller() {
    pollfd waiting{listener.get(), POLLIN, 0};
    EXPECT_EQ(::poll(&waiting, 1, 60'000), 1);
    return *accept_from(listener);
  }
  /// As the acceptor of rank 1 does, for a link of one socket.
  void welcome(const Fd& caller) {
    SocketStream stream(*scheduler, caller);
    const Hello mine{.purpose = kPurposeLink, .generation = Generation(1), .rank = Rank(1)};
    ASSERT_TRUE(handshake_as_server(stream, mine, kToken, soon()).ok());
    LinkSetup setup;
    ASSERT_TRUE(stream.read_exact(base::writable_bytes_of(setup), soon()));
    ASSERT_TRUE(stream.write_all(base::bytes_of(Verdict::kAccepted), soon()));
  }
  base::Result<std::unique_ptr<Connection>> connect() {
    auto transport = create(*clock, std::make_shared<Router>(*clock),
                            {Rank(0), Generation(1), kToken}, {.streams = 1});
    EXPECT_TRUE(transport.ok());
    return (*transport)
        ->connect(Rank(1), local_address(listener), clock->after(std::chrono::seconds(60)));
  }
  base::TimePoint soon() const { return scheduler->after(std::chrono::seconds(60)); }

  std::unique_ptr<JumpingClock> clock = std::make_unique<JumpingClock>();
  std::unique_ptr<base::Scheduler> scheduler = base::make_os_scheduler();
  Fd listener = *listen_on("127.0.0.1", 0);
};

TEST_F(TcpSetupTest, WhoWasHeldUpTooLongForThePeerKnocksAgain) {
  std::jthread peer([this] {
    {
      const Fd first = next_caller();
      clock->jump(Acceptor::kPatience);
    }
    const Fd second = next_caller();
    welcome(second);
  });
  const auto connected = connect();
  EXPECT_TRUE(connected.ok()) << connected.error().to_string();
}

TEST_F(TcpSetupTest, WhoHasNoDescriptorToConnectWithBlamesNobodyElse) {
  auto transport = create(*clock, std::make_shared<Router>(*clock),
                          {Rank(0), Generation(1), kToken}, {.streams = 1});
  ASSERT_TRUE(transport.ok());
  const std::string address = local_address(listener);
  const base::TimePoint deadline = clock->after(std::chrono::seconds(60));
  const gearshift::testing::FewDescriptors none(0);
  const auto connected = (*transport)->connect(Rank(1), address, deadline);
  ASSERT_FALSE(connected.ok());
  EXPECT_EQ(connected.error().culprit, 0);
}

TEST_F(TcpSetupTest, WhoIsToldToStopWaitsNoLonger) {
  auto transport = create(*scheduler, std::make_shared<Router>(*scheduler),
                          {Rank(0), Generation(1), kToken}, {.streams = 1});
  ASSERT_TRUE(transport.ok());
  std::stop_source stop;
  std::jthread peer([&] {
    const Fd caller = next_caller();  // and no answer
    stop.request_stop();
    pollfd end{caller.get(), POLLRDHUP, 0};
    EXPECT_EQ(::poll(&end, 1, 60'000), 1);
  });
  const auto connected =
      (*transport)->connect(Rank(1), local_address(listener), soon(), stop.get_token());
  ASSERT_FALSE(connected.ok());
  EXPECT_EQ(connected.error().code, base::ErrorCode::kAborted);
}

TEST_F(TcpSetupTest, WhoIsTurnedAwayAtOnceSaysSoAtOnce) {
  std::jthread peer([this] { next_caller(); });
  const auto connected = connect();
  ASSERT_FALSE(connected.ok());
  EXPECT_EQ(connected.error().code, base::ErrorCode::kPeerLost);
}

/// As where the system's own table of files is full: giving up a descriptor helps nobody then.
TEST_F(TcpSetupTest, CallersThatCannotEvenBeTurnedAwayKeepNoProcessorBusy) {
  auto transport = create(*clock, std::make_shared<Router>(*clock),
                          {Rank(0), Generation(1), kToken}, {.streams = 1});
  ASSERT_TRUE(transport.ok());
  const auto is_greeted = [this](const Fd& caller) {
    SocketStream stream(*scheduler, caller);
    const Hello mine{.purpose = kPurposeLink, .generation = Generation(1), .rank = Rank(1)};
    return handshake_as_client(stream, mine, kToken, soon()).ok();
  };
  const Fd first = *connect_to(*scheduler, (*transport)->address(), soon());
  EXPECT_TRUE(is_greeted(first));
  sockaddr_storage there{};
  socklen_t size = sizeof there;
  ASSERT_EQ(::getpeername(first.get(), reinterpret_cast<sockaddr*>(&there), &size), 0);
  const Fd second(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const double busy = gearshift::testing::busy_without_descriptors(
      [&] { EXPECT_EQ(::connect(second.get(), reinterpret_cast<sockaddr*>(&there), size), 0); });
  EXPECT_LT(busy, 0.1);
  EXPECT_TRUE(is_greeted(second));
}

}  // namespace
}  // namespace gearshift::transport::tcp
