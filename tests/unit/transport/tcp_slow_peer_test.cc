#include <gtest/gtest.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <numeric>
#include <thread>

#include "gearshift/transport/tcp/factory.h"
#include "transport/tcp/frame.h"
#include "transport/tcp/setup.h"

/// Streams so slow that data gather before they are read (transport/tcp/read_pace.h).
namespace gearshift::transport::tcp {
namespace {

using base::ErrorCode;
using base::Fd;
using base::Generation;
using base::Rank;

constexpr std::size_t kBytes = 1 << 20;
constexpr std::size_t kPacket = 4000;

class TcpSlowPeerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    transport = *create(*scheduler, router, {Rank(0), Generation(1), "secret"}, {.streams = 1});
    sockets = *open_link(*scheduler, {Rank(1), Generation(1), "secret"}, Rank(0),
                         transport->address(), 1, soon());
    connection = *transport->accept(Rank(1), soon());
    std::iota(reinterpret_cast<std::uint8_t*>(sent.data()),
              reinterpret_cast<std::uint8_t*>(sent.data() + sent.size()), std::uint8_t{0});
  }
  base::TimePoint soon() const { return scheduler->after(std::chrono::seconds(60)); }
  /// Less than a message takes, more than it ever stands still.
  base::TimePoint brief() const { return scheduler->after(std::chrono::seconds(2)); }
  void say(base::ConstBytes bytes) {
    ASSERT_TRUE(SocketStream(*scheduler, sockets[0]).write_all(bytes, soon()).ok());
  }
  void say_frame(std::uint32_t sequence, std::uint64_t bytes) {
    Frame frame;
    frame.tag = Tag(1, sequence, 0).value;
    frame.body_bytes = bytes;
    say(base::bytes_of(frame));
  }
  /// 10 to 20 MB/s.
  void trickle(base::ConstBytes bytes) {
    while (!bytes.empty()) {
      const std::size_t size = std::min(bytes.size(), kPacket);
      say(bytes.first(size));
      bytes = bytes.subspan(size);
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  }

  /// That came from the reader.
  std::uint32_t acknowledgements() const {
    tcp_info info{};
    socklen_t size = sizeof(info);
    EXPECT_EQ(::getsockopt(sockets[0].get(), IPPROTO_TCP, TCP_INFO, &info, &size), 0);
    return info.tcpi_segs_in;
  }

  std::unique_ptr<base::Scheduler> scheduler = base::make_os_scheduler();
  std::shared_ptr<Router> router = std::make_shared<Router>(*scheduler);
  std::unique_ptr<Transport> transport;
  std::unique_ptr<Connection> connection;
  std::vector<Fd> sockets;
  std::vector<std::byte> sent = std::vector<std::byte>(kBytes);
  std::vector<std::byte> into = std::vector<std::byte>(kBytes);
};

TEST_F(TcpSlowPeerTest, LongAndShortMessagesArriveInTurn) {
  for (std::uint32_t i = 0; i < 3; ++i) {
    std::byte after{};
    Request recv = connection->recv(Tag(1, 2 * i, 0), into);
    Request next = connection->recv(Tag(1, 2 * i + 1, 0), base::writable_bytes_of(after));
    say_frame(2 * i, kBytes);
    trickle(sent);
    say_frame(2 * i + 1, 1);
    say(base::bytes_of(std::byte{9}));
    ASSERT_TRUE(recv.wait(soon()).ok());
    ASSERT_TRUE(next.wait(soon()).ok());
    EXPECT_EQ(into, sent);
    EXPECT_EQ(after, std::byte{9});
    std::fill(into.begin(), into.end(), std::byte{});
  }
}

TEST_F(TcpSlowPeerTest, TheReaderAcknowledgesLessThanEveryOtherPacket) {
  Request recv = connection->recv(Tag(1, 0, 0), into);
  say_frame(0, kBytes);
  trickle(base::ConstBytes(sent).first(kBytes / 4));  // its speed is known, its window open
  const std::uint32_t before = acknowledgements();
  trickle(base::ConstBytes(sent).subspan(kBytes / 4, kBytes / 2));
  const std::uint32_t after = acknowledgements();
  trickle(base::ConstBytes(sent).subspan(3 * kBytes / 4));
  ASSERT_TRUE(recv.wait(soon()).ok());
  const std::size_t packets = kBytes / 2 / kPacket;
  EXPECT_LT(after - before, packets / 3) << "of " << packets << "; read as they come, a half";
}

TEST_F(TcpSlowPeerTest, APauseWithinAMessageIsNoEnd) {
  Request recv = connection->recv(Tag(1, 0, 0), into);
  say_frame(0, kBytes);
  for (std::size_t at : {std::size_t{0}, kBytes / 4, kBytes / 2, 3 * kBytes / 4}) {
    trickle(base::ConstBytes(sent).subspan(at, kBytes / 4));
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
  }
  ASSERT_TRUE(recv.wait(soon()).ok());
  EXPECT_EQ(into, sent);
}

TEST_F(TcpSlowPeerTest, APeerThatVanishesMeanwhileIsLost) {
  Request recv = connection->recv(Tag(1, 0, 0), into);
  say_frame(0, kBytes);
  trickle(base::ConstBytes(sent).first(kBytes / 2));
  sockets.clear();
  const auto status = recv.wait(soon());
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kPeerLost);
}

TEST_F(TcpSlowPeerTest, AConnectionEndsWhileDataGather) {
  Request recv = connection->recv(Tag(1, 0, 0), into);
  say_frame(0, kBytes);
  trickle(base::ConstBytes(sent).first(kBytes / 2));
  connection.reset();
  EXPECT_FALSE(recv.wait(soon()).ok());
}

TEST_F(TcpSlowPeerTest, WhatIsSentMeanwhileLeaves) {
  Request recv = connection->recv(Tag(1, 0, 0), into);
  say_frame(0, kBytes);
  std::jthread sender([&] { trickle(sent); });
  std::vector<std::byte> big(8 << 20, std::byte{3});
  Request send = connection->send(Tag(2, 0, 0), {}, big);
  std::vector<std::byte> got(sizeof(Frame) * 16 + big.size());
  SocketStream peer(*scheduler, sockets[0]);
  const std::size_t frames = big.size() / kMaxChunkBytes;
  ASSERT_TRUE(
      peer.read_exact(base::Bytes(got).first(frames * sizeof(Frame) + big.size()), soon()).ok());
  EXPECT_TRUE(send.wait(soon()).ok());
  sender.join();
  ASSERT_TRUE(recv.wait(soon()).ok());
  EXPECT_EQ(into, sent);
}

/// Parts of a message, far enough apart that all of them take longer than a wait that is `brief`.
constexpr int kParts = 24;
constexpr std::chrono::milliseconds kApart{100};

TEST_F(TcpSlowPeerTest, AMessageThatKeepsComingIsNotLate) {
  Request recv = connection->recv(Tag(1, 0, 0), into);
  Request next = connection->recv(Tag(1, 1, 0), into);
  std::jthread sender([&] {
    say_frame(0, kBytes);
    for (std::size_t k = 0; k < kParts; ++k) {
      say(base::ConstBytes(sent).subspan(k * (kBytes / kParts), kBytes / kParts));
      std::this_thread::sleep_for(kApart);
    }
    say(base::ConstBytes(sent).subspan(kParts * (kBytes / kParts)));
    say_frame(1, kBytes);
    say(sent);
  });
  // Before the other one: what is ahead of it keeps coming, too.
  EXPECT_TRUE(next.wait(brief()).ok());
  EXPECT_TRUE(recv.wait(brief()).ok());
}

TEST_F(TcpSlowPeerTest, AMessageThatKeepsLeavingIsNotLate) {
  const int window = 64 << 10;  // the kernel takes twice as much
  ::setsockopt(sockets[0].get(), SOL_SOCKET, SO_RCVBUF, &window, sizeof(window));
  const std::vector<std::byte> big(32U << 20, std::byte{3});
  Request first = connection->send(Tag(2, 0, 0), {}, big);
  Request second = connection->send(Tag(2, 1, 0), {}, big);
  Request answer = connection->recv(Tag(1, 0, 0), base::Bytes(into).first(1));
  std::jthread reader([&] {
    const std::size_t bytes = 2 * (big.size() + big.size() / kMaxChunkBytes * sizeof(Frame));
    std::vector<std::byte> got(bytes / kParts);
    SocketStream peer(*scheduler, sockets[0]);
    for (int k = 0; k < kParts; ++k) {
      EXPECT_TRUE(peer.read_exact(got, soon()).ok());
      std::this_thread::sleep_for(kApart);
    }
    EXPECT_TRUE(peer.read_exact(base::Bytes(got).first(bytes % kParts), soon()).ok());
    say_frame(0, 1);
    say(base::bytes_of(std::byte{9}));
  });
  EXPECT_TRUE(answer.wait(brief()).ok());  // to what is still leaving
  EXPECT_TRUE(second.wait(brief()).ok());
  EXPECT_TRUE(first.wait(brief()).ok());
}

TEST_F(TcpSlowPeerTest, HeartbeatsAloneAreNoProgress) {
  Request begun = connection->recv(Tag(1, 0, 0), into);
  say_frame(0, kBytes);
  say(base::ConstBytes(sent).first(kBytes / 2));
  ASSERT_FALSE(begun.wait(scheduler->after(std::chrono::milliseconds(50))).ok());

  SetUp();  // that has ended the link
  Request posted = connection->recv(Tag(1, 0, 0), into);
  std::jthread beats([&](const std::stop_token& stopped) {
    while (!stopped.stop_requested()) {
      say_frame(7, 0);
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  });
  EXPECT_EQ(posted.wait(scheduler->after(std::chrono::milliseconds(50))).error().code,
            ErrorCode::kTimeout);
}

}  // namespace
}  // namespace gearshift::transport::tcp
