#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <fstream>
#include <thread>

#include "gearshift/transport/tcp/factory.h"
#include "support/few_threads.h"
#include "transport/tcp/frame.h"
#include "transport/tcp/setup.h"

/// What may happen on the port of a running job: strangers, and peers that know the token but
/// break the protocol or die.
namespace gearshift::transport::tcp {
namespace {

using base::ErrorCode;
using base::Fd;
using base::Generation;
using base::Rank;

class TcpStrangersTest : public ::testing::Test {
 protected:
  void SetUp() override {
    rank0 = make(0);
    rank1 = make(1);
    ASSERT_TRUE(rank0 && rank1);
  }
  std::unique_ptr<Transport> make(int rank) {
    routers.push_back(std::make_shared<Router>(*scheduler));
    auto made = create(*scheduler, routers.back(), {Rank(rank), Generation(1), "secret"},
                       {.streams = 2, .stripe_bytes = 100000});
    return made ? *std::move(made) : nullptr;
  }
  base::TimePoint soon() const { return scheduler->after(std::chrono::seconds(60)); }

  Fd knock() { return *connect_to(*scheduler, rank1->address(), soon()); }
  void say(const Fd& fd, base::ConstBytes bytes) {
    (void)SocketStream(*scheduler, fd).write_all(bytes, soon());
  }
  /// True when the other side has hung up.
  bool hung_up(const Fd& fd) {
    std::byte byte{};
    const auto status = SocketStream(*scheduler, fd).read_exact({&byte, 1}, soon());
    return !status.ok() && status.error().code != ErrorCode::kTimeout;
  }

  /// Connects rank 0 to rank 1 and moves something both ways.
  void expect_service() {
    std::jthread acceptor([&] {
      auto accepted = rank1->accept(Rank(0), soon());
      ASSERT_TRUE(accepted.ok()) << accepted.error().to_string();
      at1 = *std::move(accepted);
    });
    auto connected = rank0->connect(Rank(1), rank1->address(), soon());
    ASSERT_TRUE(connected.ok()) << connected.error().to_string();
    at0 = *std::move(connected);
    acceptor.join();
    expect_traffic(1);
  }
  void expect_traffic(std::uint32_t sequence) {
    std::vector<std::byte> sent(300000, std::byte{7});
    std::vector<std::byte> got(sent.size());
    for (auto [from, to] : {std::pair(at0.get(), at1.get()), std::pair(at1.get(), at0.get())}) {
      Request recv = to->recv(Tag(1, sequence, 0), got);
      EXPECT_TRUE(from->send(Tag(1, sequence, 0), sent).wait(soon()).ok());
      EXPECT_TRUE(recv.wait(soon()).ok());
      EXPECT_EQ(got, sent);
    }
  }

  /// Connects as rank 2, which knows the token, and has rank 1 accept it.
  std::vector<Fd> open_rogue() {
    auto sockets = open_link(*scheduler, {Rank(2), Generation(1), "secret"}, Rank(1),
                             rank1->address(), 2, soon());
    EXPECT_TRUE(sockets.ok());
    auto accepted = rank1->accept(Rank(2), soon());
    EXPECT_TRUE(accepted.ok());
    rogue = *std::move(accepted);
    return *std::move(sockets);
  }
  ErrorCode rogue_outcome() {
    std::byte byte{};
    const auto status = rogue->recv(Tag(9, 9, 9), base::writable_bytes_of(byte)).wait(soon());
    EXPECT_FALSE(status.ok());
    EXPECT_EQ(status.ok() ? -1 : status.error().culprit, 2);
    return status.ok() ? ErrorCode::kInvalidArgument : status.error().code;
  }

  std::unique_ptr<gearshift::testing::FewThreads> scheduler =
      std::make_unique<gearshift::testing::FewThreads>();
  std::vector<std::shared_ptr<Router>> routers;
  std::unique_ptr<Transport> rank0;
  std::unique_ptr<Transport> rank1;
  std::unique_ptr<Connection> at0;
  std::unique_ptr<Connection> at1;
  std::unique_ptr<Connection> rogue;
};

TEST_F(TcpStrangersTest, GarbageIsTurnedAway) {
  Fd stranger = knock();
  const std::vector<std::byte> garbage(100000, std::byte{'x'});
  say(stranger, garbage);
  EXPECT_TRUE(hung_up(stranger));
  expect_service();
}

TEST_F(TcpStrangersTest, HalfOpenAndSlowConnectionsDelayNobody) {
  std::vector<Fd> idle;
  for (int i = 0; i < 40; ++i) {
    idle.push_back(knock());
    if (i % 2 == 0) say(idle.back(), base::bytes_of('G'));
  }
  expect_service();
}

TEST_F(TcpStrangersTest, MoreStrangersThanSlotsOnlyDelay) {
  std::vector<Fd> idle;
  for (int i = 0; i < 100; ++i) idle.push_back(knock());
  expect_service();
}

TEST_F(TcpStrangersTest, StrangersThatComeDuringAJobDoNotDisturbIt) {
  expect_service();
  Fd garbage = knock();
  say(garbage, std::vector<std::byte>(5000, std::byte{'x'}));
  Fd silent = knock();
  for (std::uint32_t i = 2; i < 20; ++i) expect_traffic(i);
}

TEST_F(TcpStrangersTest, TheTransportEndsWhileStrangersAreAtTheDoor) {
  Fd idle = knock();
  Fd slow = knock();
  say(slow, base::bytes_of('G'));
  rank1.reset();
  EXPECT_TRUE(hung_up(idle));
}

TEST_F(TcpStrangersTest, AnOtherVersionIsRefused) {
  Fd fd = knock();
  SocketStream stream(*scheduler, fd);
  const Hello old{.version = 99, .purpose = kPurposeLink, .rank = Rank(2)};
  const auto refused = handshake_as_client(stream, old, "secret", soon());
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kMismatch);
  EXPECT_NE(refused.error().message.find("99"), std::string::npos);
  expect_service();
}

TEST_F(TcpStrangersTest, ALinkThatIsHalfSetUpDisturbsNobody) {
  Fd fd = knock();
  SocketStream stream(*scheduler, fd);
  const Hello hello{.purpose = kPurposeLink, .rank = Rank(0), .link = 5};
  ASSERT_TRUE(handshake_as_client(stream, hello, "secret", soon()).ok());
  const LinkSetup setup{.streams = 2};
  say(fd, base::bytes_of(setup));  // and the second stream never comes
  expect_service();
}

TEST_F(TcpStrangersTest, ImpossibleSetupsAreRefused) {
  for (const auto& [rank, stream_index, streams] :
       {std::tuple(1, 0U, 2U), std::tuple(2, 2U, 2U), std::tuple(2, 0U, 1000000U),
        std::tuple(2, 0U, 0U), std::tuple(-1, 0U, 2U)}) {
    Fd fd = knock();
    SocketStream stream(*scheduler, fd);
    const Hello hello{
        .purpose = kPurposeLink, .rank = Rank(rank), .stream = stream_index, .link = 5};
    ASSERT_TRUE(handshake_as_client(stream, hello, "secret", soon()).ok());
    const LinkSetup setup{.streams = streams};
    say(fd, base::bytes_of(setup));
    Verdict verdict{};
    ASSERT_TRUE(stream.read_exact(base::writable_bytes_of(verdict), soon()).ok());
    EXPECT_NE(verdict, Verdict::kAccepted);
    EXPECT_FALSE(explain(verdict).empty());
    EXPECT_TRUE(hung_up(fd));
  }
  expect_service();
}

TEST_F(TcpStrangersTest, APeerThatSendsAnOversizedFrameIsCutOff) {
  expect_service();
  const auto sockets = open_rogue();
  Frame frame;
  frame.body_bytes = ~std::uint64_t{0};
  say(sockets[0], base::bytes_of(frame));
  EXPECT_EQ(rogue_outcome(), ErrorCode::kProtocol);
  EXPECT_TRUE(hung_up(sockets[1]));
  expect_traffic(2);
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // they need all addresses
TEST_F(TcpStrangersTest, AMessageForWhichThereIsNoMemoryIsNoFaultOfThePeer) {
  constexpr std::uint64_t kBody = std::uint64_t{3} << 30;
  const auto sockets = open_rogue();
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_AS, &before), 0);
  std::size_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  const rlimit little{pages * static_cast<std::size_t>(::getpagesize()) + kBody / 2,
                      before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_AS, &little), 0);
  Frame frame;
  frame.body_bytes = kBody;
  say(sockets[0], base::bytes_of(frame));
  std::byte byte{};
  const auto status = rogue->recv(Tag(9, 9, 9), base::writable_bytes_of(byte)).wait(soon());
  ASSERT_EQ(::setrlimit(RLIMIT_AS, &before), 0);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kIo);
  EXPECT_EQ(status.error().culprit, -1);
  EXPECT_NE(status.error().message.find("no memory here"), std::string::npos);
}
#endif

TEST_F(TcpStrangersTest, APeerThatSendsGarbageFramesIsCutOff) {
  expect_service();
  const auto sockets = open_rogue();
  say(sockets[1], std::vector<std::byte>(1000, std::byte{'x'}));
  EXPECT_EQ(rogue_outcome(), ErrorCode::kProtocol);
  expect_traffic(2);
}

TEST_F(TcpStrangersTest, ChunksThatDisagreeAreCutOff) {
  const auto sockets = open_rogue();
  Frame frame;
  frame.kind = FrameKind::kChunk;
  frame.body_bytes = 8;
  frame.chunk_bytes = 4;
  const std::uint32_t part = 7;
  say(sockets[0], base::bytes_of(frame));
  say(sockets[0], base::bytes_of(part));
  say(sockets[0], base::bytes_of(frame));  // the same chunk again
  EXPECT_EQ(rogue_outcome(), ErrorCode::kProtocol);
}

TEST_F(TcpStrangersTest, BytesAfterAGoodByeAreCutOff) {
  const auto sockets = open_rogue();
  Frame bye;
  bye.kind = FrameKind::kBye;
  say(sockets[0], base::bytes_of(bye));
  say(sockets[0], base::bytes_of(bye));
  EXPECT_EQ(rogue_outcome(), ErrorCode::kProtocol);
}

TEST_F(TcpStrangersTest, APeerThatVanishesWithinAFrameIsLost) {
  expect_service();
  {
    const auto sockets = open_rogue();
    Frame frame;
    frame.tag = Tag(9, 9, 9).value;
    frame.body_bytes = 1;
    say(sockets[0], base::bytes_of(frame).first(30));
  }
  EXPECT_EQ(rogue_outcome(), ErrorCode::kPeerLost);
  expect_traffic(2);
}

TEST_F(TcpStrangersTest, APeerThatVanishesWithinABodyIsLost) {
  std::vector<std::byte> into(1000);
  Request recv;
  {
    const auto sockets = open_rogue();
    recv = rogue->recv(Tag(1, 1, 1), into);
    Frame frame;
    frame.tag = Tag(1, 1, 1).value;
    frame.body_bytes = into.size();
    say(sockets[0], base::bytes_of(frame));
    say(sockets[0], std::vector<std::byte>(500));
  }
  EXPECT_EQ(recv.wait(soon()).error().code, ErrorCode::kPeerLost);
}

TEST_F(TcpStrangersTest, AReceiveFromAFrozenPeerTimesOutWithinItsBody) {
  const auto sockets = open_rogue();
  auto into = std::make_unique<std::vector<std::byte>>(1000);
  Request recv = rogue->recv(Tag(1, 1, 1), *into);
  Frame frame;
  frame.tag = Tag(1, 1, 1).value;
  frame.body_bytes = into->size();
  say(sockets[0], base::bytes_of(frame));
  say(sockets[0], std::vector<std::byte>(500));
  while (rogue->traffic().bytes_received < 500) std::this_thread::yield();
  const auto status = recv.wait(scheduler->after(std::chrono::milliseconds(200)));
  EXPECT_EQ(status.error().code, ErrorCode::kTimeout);
  into.reset();
  say(sockets[0], std::vector<std::byte>(500));  // whoever writes it to the buffer is caught
  EXPECT_TRUE(hung_up(sockets[0]));
}

TEST_F(TcpStrangersTest, ASendToAPeerThatDoesNotReadTimesOut) {
  const auto sockets = open_rogue();
  auto body = std::make_unique<std::vector<std::byte>>(64 << 20);
  Request first = rogue->send(Tag(1, 1, 1), *body);
  Request second = rogue->send(Tag(1, 2, 1), *body);
  const auto at = [&](int ms) { return scheduler->after(std::chrono::milliseconds(ms)); };
  EXPECT_EQ(second.wait(at(100)).error().code, ErrorCode::kTimeout);
  EXPECT_EQ(first.wait(at(100)).error().code, ErrorCode::kTimeout);
  body.reset();
  EXPECT_EQ(rogue->send(Tag(1, 3, 1), {}).wait(soon()).error().code, ErrorCode::kTimeout)
      << "half a message is out: the link is broken";
}

TEST_F(TcpStrangersTest, CloseTowardsAPeerThatDoesNotReadEndsAtItsDeadline) {
  const auto sockets = open_rogue();
  const std::vector<std::byte> body(64 << 20);
  Request send = rogue->send(Tag(1, 1, 1), body);
  rogue->close(scheduler->after(std::chrono::milliseconds(100)));
  EXPECT_FALSE(send.wait(soon()).ok());
}

TEST_F(TcpStrangersTest, Ipv6IsSpokenWhereTheSystemHasIt) {
  auto router = std::make_shared<Router>(*scheduler);
  auto six = create(*scheduler, router, {Rank(3), Generation(1), "secret"}, {.host = "::1"});
  if (!six) GTEST_SKIP() << six.error().message;
  EXPECT_TRUE((*six)->address().starts_with("tcp://[::1]:"));
  auto connected = rank0->connect(Rank(3), (*six)->address(), soon());
  ASSERT_TRUE(connected.ok()) << connected.error().to_string();
  EXPECT_TRUE((*connected)->capabilities().same_host);
}

TEST_F(TcpStrangersTest, OptionsAndAddressesAreChecked) {
  auto router = std::make_shared<Router>(*scheduler);
  const Identity identity{Rank(3), Generation(1), "secret"};
  EXPECT_EQ(create(*scheduler, router, identity, {.streams = 0}).error().code,
            ErrorCode::kInvalidArgument);
  const auto taken = create(*scheduler, router, identity, {.host = "192.0.2.1"});
  ASSERT_FALSE(taken.ok());
  EXPECT_EQ(taken.error().code, ErrorCode::kIo);
  EXPECT_NE(taken.error().message.find("192.0.2.1"), std::string::npos);
  EXPECT_EQ(rank0->connect(Rank(1), "nowhere", soon()).error().code, ErrorCode::kInvalidArgument);
}

TEST_F(TcpStrangersTest, ACallerWaitsForAThread) {
  scheduler->refusals = 3;
  Fd caller = knock();
  SocketStream stream(*scheduler, caller);
  const Hello hello{.purpose = kPurposeLink, .generation = Generation(1), .rank = Rank(2)};
  EXPECT_TRUE(handshake_as_client(stream, hello, "secret", soon()).ok());
  EXPECT_EQ(scheduler->refusals, 0);
  expect_service();
}

TEST_F(TcpStrangersTest, WithoutAThreadToSpareACallerIsTurnedAway) {
  scheduler->none_left = true;
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(hung_up(knock()));
  scheduler->none_left = false;
  expect_service();
}

}  // namespace
}  // namespace gearshift::transport::tcp
