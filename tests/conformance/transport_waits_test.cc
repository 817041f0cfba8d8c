#include <array>
#include <atomic>
#include <cstring>

#include "conformance/transport_conformance.h"

/// What comes while somebody waits for something else, and after it has stopped waiting. A
/// transport may have those that wait do its reading; nobody may be forgotten for that.
namespace gearshift::testing {

using base::ErrorCode;
using transport::Request;
using transport::Tag;

namespace {

constexpr std::uint16_t kWaitsService = 0xF0BC;

base::Status exchange(Peer& from, Peer& to, std::uint32_t number, base::TimePoint deadline) {
  std::uint32_t got = ~number;
  Request recv = to.link->recv(Tag(1, number, 0), base::writable_bytes_of(got));
  GEARSHIFT_RETURN_IF_ERROR(
      from.link->send(Tag(1, number, 0), base::bytes_of(number)).wait(deadline));
  GEARSHIFT_RETURN_IF_ERROR(recv.wait(deadline));
  if (got == number) return {};
  return base::Error(ErrorCode::kProtocol, "a wrong number arrived");
}

}  // namespace

TEST_P(TransportConformance, WhoStopsWaitingLeavesTheLinkInUse) {
  link_pair();
  auto box = b.router->mailbox(kWaitsService);
  for (std::uint32_t round = 0; round < 200; ++round) {
    ASSERT_TRUE(exchange(a, b, round, soon()).ok());
    // Nobody waits for a message of the link now, only for its mailbox.
    ASSERT_TRUE(
        a.link->send(Tag(kWaitsService, round, 0), base::bytes_of(round)).wait(soon()).ok());
    auto message = box->pop(soon());
    ASSERT_TRUE(message.ok()) << round << ": " << message.error().to_string();
    EXPECT_EQ(message->tag, Tag(kWaitsService, round, 0));
  }
}

TEST_P(TransportConformance, ALinkThatWasGivenBackToItsReaderIsSoAgain) {
  link_pair();
  auto box = b.router->mailbox(kWaitsService);
  std::vector<std::byte> memory(100'000);
  const std::vector<std::byte> sent(memory.size());
  // Sends when the other has been waiting for a while.
  auto wait_for = [&](Tag tag, std::size_t size) {
    std::jthread sender([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(3));
      EXPECT_TRUE(a.link->send(tag, base::ConstBytes(sent).first(size)).wait(soon()).ok());
    });
    ASSERT_TRUE(b.link->recv(tag, base::Bytes(memory).first(size)).wait(soon()).ok());
  };
  for (std::uint32_t round = 0; round < 3; ++round) {
    wait_for(Tag(1, round, 0), 8);
    // The wait for a long message has the link's reader read again,
    wait_for(Tag(2, round, 0), sent.size());
    std::this_thread::sleep_for(std::chrono::milliseconds(15));
    // and so must a mailbox after the next one for a short message, whatever was planned before.
    wait_for(Tag(3, round, 0), 8);
    ASSERT_TRUE(
        a.link->send(Tag(kWaitsService, round, 0), base::bytes_of(round)).wait(soon()).ok());
    auto message = box->pop(soon());
    ASSERT_TRUE(message.ok()) << round << ": " << message.error().to_string();
  }
}

TEST_P(TransportConformance, MailboxesFillWhileSomebodyWaitsForAMessage) {
  link_pair();
  auto box = b.router->mailbox(kWaitsService);
  std::uint32_t got = 0;
  std::jthread waiter([&] {
    EXPECT_TRUE(b.link->recv(Tag(1, 1, 0), base::writable_bytes_of(got)).wait(soon()).ok());
  });
  for (std::uint32_t i = 0; i < 100; ++i) {
    ASSERT_TRUE(a.link->send(Tag(kWaitsService, i, 0), base::bytes_of(i)).wait(soon()).ok());
    ASSERT_TRUE(box->pop(soon()).ok());
  }
  const std::uint32_t last = 77;
  ASSERT_TRUE(a.link->send(Tag(1, 1, 0), base::bytes_of(last)).wait(soon()).ok());
  waiter.join();
  EXPECT_EQ(got, last);
}

TEST_P(TransportConformance, ThoseThatWaitForLongAndShortMessagesOfOneLinkAllGetThem) {
  link_pair();
  constexpr std::uint32_t kRounds = 300;
  constexpr std::array<std::size_t, 5> kSizes = {4, 4096, 65536, 65537, 600'000};
  std::atomic<int> wrong{0};
  auto send = [&](std::uint16_t channel, std::size_t size) {
    const auto body = pattern(size, channel);
    for (std::uint32_t i = 0; i < kRounds; ++i) {
      // An answer to each: the next comes after the wait for this one is over.
      std::byte answer{};
      Request recv = a.link->recv(Tag(channel, i, 1), {&answer, 1});
      if (!a.link->send(Tag(channel, i, 0), body).wait(soon()).ok()) ++wrong;
      if (!recv.wait(soon()).ok()) ++wrong;
    }
  };
  auto receive = [&](std::uint16_t channel, std::size_t size) {
    std::vector<std::byte> memory(size);
    const std::byte answer{1};
    for (std::uint32_t i = 0; i < kRounds; ++i) {
      std::fill(memory.begin(), memory.end(), std::byte{0});
      if (!b.link->recv(Tag(channel, i, 0), memory).wait(soon()).ok()) ++wrong;
      if (first_difference(memory, pattern(size, channel)) != -1) ++wrong;
      if (!b.link->send(Tag(channel, i, 1), {&answer, 1}).wait(soon()).ok()) ++wrong;
    }
  };
  std::vector<std::jthread> threads;
  for (std::size_t i = 0; i < kSizes.size(); ++i) {
    threads.emplace_back(send, static_cast<std::uint16_t>(i + 1), kSizes[i]);
    threads.emplace_back(receive, static_cast<std::uint16_t>(i + 1), kSizes[i]);
  }
  threads.clear();
  EXPECT_EQ(wrong, 0);
}

/// Nobody waits: the transport tells, for messages before and after the receive, and for the end.
TEST_P(TransportConformance, AReceiveTellsThatItIsDone) {
  link_pair();
  base::Channel<std::uint32_t> told(*scheduler);
  std::array<std::uint32_t, 4> got{};
  std::array<Request, 4> receives;
  const auto post = [&](std::uint32_t i) {
    receives[i] = b.link->recv(Tag(1, i, 0), base::writable_bytes_of(got[i]));
    EXPECT_TRUE(receives[i].when_done([&told, i] { told.push(i); }));
  };
  const auto send = [&](std::uint32_t i) {
    EXPECT_TRUE(a.link->send(Tag(1, i, 0), base::bytes_of(i)).wait(soon()).ok());
  };
  const auto expect_told = [&](std::uint32_t i) {
    const auto which = told.pop(soon());
    ASSERT_TRUE(which.ok()) << i << ": " << which.error().to_string();
    EXPECT_EQ(*which, i);
    EXPECT_TRUE(receives[i].done());
  };
  ASSERT_TRUE(exchange(a, b, 77, soon()).ok());  // somebody has waited before
  post(1);
  post(2);
  send(2);
  expect_told(2);
  EXPECT_EQ(got[2], 2u);
  send(1);
  expect_told(1);
  send(3);
  ASSERT_TRUE(exchange(a, b, 78, soon()).ok());  // so the other has come
  post(3);
  expect_told(3);
  EXPECT_EQ(got[3], 3u);
  post(0);
  a.link->abort({base::ErrorCode::kAborted, "the test ends it"});
  expect_told(0);
  EXPECT_FALSE(receives[0].wait(soon()).ok());
}

TEST_P(TransportConformance, AWaitOfNoTimeFindsWhatHasCome) {
  link_pair();
  ASSERT_TRUE(exchange(a, b, 1, soon()).ok());
  std::uint32_t got = 0;
  Request recv = b.link->recv(Tag(1, 2, 0), base::writable_bytes_of(got));
  const std::uint32_t sent = 5;
  ASSERT_TRUE(a.link->send(Tag(1, 2, 0), base::bytes_of(sent)).wait(soon()).ok());
  // Not waited for, it is done none the less.
  while (!recv.done() && scheduler->now() < soon()) std::this_thread::yield();
  ASSERT_TRUE(recv.wait(scheduler->now()).ok());
  EXPECT_EQ(got, sent);
}

TEST_P(TransportConformance, ALossEndsAWaitWhoeverReads) {
  link_pair();
  ASSERT_TRUE(exchange(a, b, 1, soon()).ok());
  std::uint32_t first = 0;
  std::vector<std::byte> second(100'000);
  auto lost = [&](Request request) {
    const base::Status status = request.wait(soon());
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().code, ErrorCode::kPeerLost);
  };
  std::jthread short_wait(lost, b.link->recv(Tag(1, 2, 0), base::writable_bytes_of(first)));
  std::jthread long_wait(lost, b.link->recv(Tag(1, 3, 0), second));
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  a.link.reset();
}

TEST_P(TransportConformance, ACloseRightAfterAWaitIsQuiet) {
  link_pair();
  ASSERT_TRUE(exchange(a, b, 1, soon()).ok());
  ASSERT_TRUE(exchange(b, a, 2, soon()).ok());
  std::jthread other([&] { b.link->close(soon()); });
  a.link->close(soon());
  other.join();
  std::uint32_t got = 0;
  const auto status = a.link->recv(Tag(1, 9, 0), base::writable_bytes_of(got)).wait(soon());
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kClosed);
}

}  // namespace gearshift::testing
