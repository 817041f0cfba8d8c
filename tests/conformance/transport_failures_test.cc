#include <mutex>
#include <optional>

#include "conformance/transport_conformance.h"

namespace gearshift::testing {

using base::ErrorCode;
using transport::Request;
using transport::Tag;

namespace {

/// Collects the losses that a router reports.
class Losses {
 public:
  explicit Losses(transport::Router& router)
      : router_(router), monitor_(router.scheduler().make_monitor()) {
    router.on_lost([this](base::Rank peer, const base::Error&) {
      std::lock_guard<base::Monitor> lock(*monitor_);
      ranks_.push_back(peer.value);
      monitor_->notify_all();
    });
  }
  ~Losses() { router_.on_lost({}); }

  /// The ranks reported so far; waits until there are `count`.
  std::vector<int> wait_for(std::size_t count, base::TimePoint deadline) {
    std::lock_guard<base::Monitor> lock(*monitor_);
    while (ranks_.size() < count && monitor_->wait_until(deadline)) {
    }
    return ranks_;
  }

 private:
  transport::Router& router_;
  std::unique_ptr<base::Monitor> monitor_;
  std::vector<int> ranks_;
};

ErrorCode code_of(const base::Status& status) {
  EXPECT_FALSE(status.ok()) << "an error was expected";
  return status.ok() ? ErrorCode::kInvalidArgument : status.error().code;
}

}  // namespace

TEST_P(TransportConformance, WithdrawsAReceiveThatTimesOut) {
  link_pair();
  std::vector<std::byte> first(1000, std::byte{0x5A});
  Request recv = b.link->recv(Tag(1, 1, 0), first);
  EXPECT_EQ(code_of(recv.wait(shortly())), ErrorCode::kTimeout);
  EXPECT_TRUE(recv.done());
  EXPECT_EQ(code_of(recv.wait(soon())), ErrorCode::kTimeout) << "the outcome is final";

  // The message comes late: it leaves the withdrawn memory alone and waits for the next receive.
  const auto sent = pattern(1000, 1);
  ASSERT_TRUE(a.link->send(Tag(1, 1, 0), sent).wait(soon()).ok());
  std::vector<std::byte> second(1000);
  ASSERT_TRUE(b.link->recv(Tag(1, 1, 0), second).wait(soon()).ok());
  EXPECT_EQ(first_difference(second, sent), -1);
  EXPECT_EQ(first, std::vector<std::byte>(1000, std::byte{0x5A}));
}

TEST_P(TransportConformance, RefusesASizeThatDiffersFromThePostedOne) {
  link_pair();
  Losses losses(*b.router);
  std::vector<std::byte> got(999);
  Request recv = b.link->recv(Tag(1, 1, 0), got);
  Request other = b.link->recv(Tag(1, 2, 0), got);
  EXPECT_TRUE(a.link->send(Tag(1, 1, 0), pattern(1000, 1)).wait(soon()).ok());
  EXPECT_EQ(code_of(recv.wait(soon())), ErrorCode::kMismatch);
  EXPECT_EQ(got, std::vector<std::byte>(999));
  const auto fits = pattern(999, 2);
  EXPECT_TRUE(a.link->send(Tag(1, 2, 0), fits).wait(soon()).ok());
  EXPECT_TRUE(other.wait(soon()).ok()) << "the link is well";
  EXPECT_EQ(got, fits);
  EXPECT_TRUE(losses.wait_for(1, shortly()).empty());
}

TEST_P(TransportConformance, RefusesAMessageThatMeansSomethingElseThoughItsSizeFits) {
  link_pair();
  for (const std::size_t size : {std::size_t{100}, std::size_t{1} << 20}) {
    for (const bool posted_first : {true, false}) {
      const auto number = static_cast<std::uint32_t>(2 * size + (posted_first ? 1 : 0));
      Tag tag(1, number, 0), other = tag;
      tag.check = 0xABCDEF;
      other.check = 0xABCDEE;
      const auto sent = pattern(size, 1), after = pattern(1, 2);
      std::vector<std::byte> got(size), next(1);
      Request wrong, recv;
      if (posted_first) wrong = b.link->recv(other, got);
      Request first = a.link->send(tag, sent);
      Request second = a.link->send(Tag(1, number, 1), after);
      ASSERT_TRUE(b.link->recv(Tag(1, number, 1), next).wait(soon()).ok()) << "the link is well";
      if (!posted_first) wrong = b.link->recv(other, got);
      EXPECT_EQ(code_of(wrong.wait(soon())), ErrorCode::kMismatch);
      EXPECT_EQ(got, std::vector<std::byte>(size));
      EXPECT_TRUE(first.wait(soon()).ok());
      EXPECT_TRUE(second.wait(soon()).ok());
      recv = b.link->recv(tag, got);
      EXPECT_TRUE(a.link->send(tag, sent).wait(soon()).ok());
      EXPECT_TRUE(recv.wait(soon()).ok()) << "the check has come across as it was";
      EXPECT_EQ(first_difference(got, sent), -1);
    }
  }
}

TEST_P(TransportConformance, RefusesASizeThatDiffersFromTheKeptMessage) {
  link_pair();
  std::byte marker{};
  ASSERT_TRUE(a.link->send(Tag(1, 1, 0), pattern(1000, 1)).wait(soon()).ok());
  ASSERT_TRUE(a.link->send(Tag(1, 2, 0), base::bytes_of(marker)).wait(soon()).ok());
  ASSERT_TRUE(b.link->recv(Tag(1, 2, 0), base::writable_bytes_of(marker)).wait(soon()).ok());
  std::vector<std::byte> got(999);
  EXPECT_EQ(code_of(b.link->recv(Tag(1, 1, 0), got).wait(soon())), ErrorCode::kMismatch);
  std::byte next{};
  Request after = b.link->recv(Tag(1, 3, 0), base::writable_bytes_of(next));
  EXPECT_TRUE(a.link->send(Tag(1, 3, 0), base::bytes_of(marker)).wait(soon()).ok());
  EXPECT_TRUE(after.wait(soon()).ok());
}

TEST_P(TransportConformance, AbortFailsBothSidesAndIsReportedOnce) {
  link_pair();
  Losses here(*a.router);
  Losses there(*b.router);
  std::byte x{};
  std::byte y{};
  Request mine = a.link->recv(Tag(1, 1, 0), base::writable_bytes_of(x));
  Request theirs = b.link->recv(Tag(1, 1, 0), base::writable_bytes_of(y));
  a.link->abort({ErrorCode::kAborted, "enough"});
  a.link->abort({ErrorCode::kIo, "the first reason stays"});
  EXPECT_EQ(code_of(mine.wait(soon())), ErrorCode::kAborted);
  const auto status = theirs.wait(soon());
  EXPECT_EQ(code_of(status), ErrorCode::kPeerLost);
  EXPECT_EQ(status.error().culprit, 0);
  EXPECT_EQ(there.wait_for(1, soon()), std::vector<int>{0});
  EXPECT_EQ(code_of(a.link->send(Tag(1, 2, 0), base::bytes_of(x)).wait(soon())),
            ErrorCode::kAborted);
  EXPECT_EQ(code_of(b.link->send(Tag(1, 2, 0), base::bytes_of(x)).wait(soon())),
            ErrorCode::kPeerLost);
  b.link.reset();
  EXPECT_TRUE(here.wait_for(1, shortly()).empty()) << "own aborts are no news";
  EXPECT_EQ(there.wait_for(2, shortly()).size(), 1U);
}

TEST_P(TransportConformance, ADestroyedConnectionIsALoss) {
  link_pair();
  Losses losses(*b.router);
  std::byte x{};
  Request theirs = b.link->recv(Tag(1, 1, 0), base::writable_bytes_of(x));
  a.link.reset();
  EXPECT_EQ(code_of(theirs.wait(soon())), ErrorCode::kPeerLost);
  EXPECT_EQ(losses.wait_for(1, soon()), std::vector<int>{0});
}

TEST_P(TransportConformance, CloseLetsEverythingArriveAndIsNoLoss) {
  link_pair();
  Losses losses(*b.router);
  const auto sent = pattern(5000000, 3);
  std::vector<std::byte> got(sent.size());
  std::byte never{};
  Request pending = b.link->recv(Tag(2, 1, 0), base::writable_bytes_of(never));
  Request early = a.link->send(Tag(1, 1, 0), sent);
  Request late = a.link->send(Tag(1, 2, 0), sent);
  a.link->close(soon());
  EXPECT_TRUE(early.wait(soon()).ok());
  EXPECT_TRUE(late.wait(soon()).ok());
  EXPECT_EQ(code_of(pending.wait(soon())), ErrorCode::kClosed);
  // Whole messages are still matched after the end.
  for (std::uint32_t i : {1U, 2U}) {
    const auto status = b.link->recv(Tag(1, i, 0), got).wait(soon());
    ASSERT_TRUE(status.ok()) << status.error().to_string();
    EXPECT_EQ(first_difference(sent, got), -1);
  }
  EXPECT_EQ(code_of(b.link->recv(Tag(1, 3, 0), got).wait(soon())), ErrorCode::kClosed);
  EXPECT_EQ(code_of(a.link->send(Tag(1, 3, 0), got).wait(soon())), ErrorCode::kClosed);
  EXPECT_EQ(code_of(b.link->send(Tag(1, 3, 0), got).wait(soon())), ErrorCode::kClosed);
  b.link->close(soon());
  EXPECT_TRUE(losses.wait_for(1, shortly()).empty());
}

TEST_P(TransportConformance, BothMayCloseAtOnce) {
  link_pair();
  const auto sent = pattern(3000000, 3);
  std::vector<std::byte> at_a(sent.size());
  std::vector<std::byte> at_b(sent.size());
  Request to_a = a.link->recv(Tag(1, 1, 0), at_a);
  Request to_b = b.link->recv(Tag(1, 1, 0), at_b);
  auto finish = [&](transport::Connection& link) {
    (void)link.send(Tag(1, 1, 0), sent);
    link.close(soon());
  };
  {
    std::jthread first([&] { finish(*a.link); });
    finish(*b.link);
  }
  // One side may have been closed by the other before it sent; what was sent has arrived.
  const bool a_got = to_a.wait(soon()).ok();
  const bool b_got = to_b.wait(soon()).ok();
  EXPECT_TRUE(a_got || b_got);
  EXPECT_TRUE(!a_got || first_difference(sent, at_a) == -1);
  EXPECT_TRUE(!b_got || first_difference(sent, at_b) == -1);
}

TEST_P(TransportConformance, AbortDuringALargeTransferStopsWritingIntoTheBuffer) {
  for (int round = 0; round < 5; ++round) {
    link_pair();
    const auto sent = pattern(16 << 20, 1);
    auto got = std::make_unique<std::vector<std::byte>>(sent.size());
    Request recv = b.link->recv(Tag(1, 1, 0), *got);
    Request send = a.link->send(Tag(1, 1, 0), sent);
    (round % 2 == 0 ? a : b).link->abort({ErrorCode::kAborted, "enough"});
    (void)recv.wait(soon());
    got.reset();  // a sanitizer sees a write that comes now
    (void)send.wait(soon());
    a = {};
    b = {};
  }
}

TEST_P(TransportConformance, AReceiveThatTimesOutHalfWayLeavesItsMemoryAlone) {
  link_pair();
  const auto sent = pattern(32 << 20, 1);
  auto got = std::make_unique<std::vector<std::byte>>(sent.size());
  Request recv = b.link->recv(Tag(1, 1, 0), *got);
  std::jthread sender([&] { (void)a.link->send(Tag(1, 1, 0), sent).wait(soon()); });
  const auto status = recv.wait(scheduler->after(std::chrono::milliseconds(1)));
  EXPECT_TRUE(status.ok() || status.error().code == ErrorCode::kTimeout);
  got.reset();
  b.link->abort({ErrorCode::kAborted, "done"});
}

TEST_P(TransportConformance, RefusesStrangersAndServesTheRightPeerMeanwhile) {
  a = make_peer(0);
  b = make_peer(1);
  Peer wrong_token = make_peer(2, "another job's secret");
  Peer old = make_peer(2, kToken, 7);
  const std::string address = b.transport->address();

  auto refused = wrong_token.transport->connect(base::Rank(1), address, soon());
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kUnauthenticated) << refused.error().to_string();
  refused = old.transport->connect(base::Rank(1), address, soon());
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kMismatch) << refused.error().to_string();
  EXPECT_NE(refused.error().message.find('7'), std::string::npos);
  refused = a.transport->connect(base::Rank(3), address, soon());
  ASSERT_FALSE(refused.ok()) << "rank 1 answers, not 3";
  EXPECT_EQ(refused.error().code, ErrorCode::kMismatch) << refused.error().to_string();

  link(a, 0, b, 1);
  auto second = a.transport->connect(base::Rank(1), address, soon());
  ASSERT_FALSE(second.ok()) << "already connected";
  EXPECT_EQ(second.error().code, ErrorCode::kMismatch) << second.error().to_string();
  std::byte x{1};
  ASSERT_TRUE(a.link->send(Tag(1, 1, 0), base::bytes_of(x)).wait(soon()).ok());
  EXPECT_TRUE(b.link->recv(Tag(1, 1, 0), base::writable_bytes_of(x)).wait(soon()).ok());
}

TEST_P(TransportConformance, AcceptTimesOutAndConnectToNobodyFails) {
  a = make_peer(0);
  auto nobody = a.transport->accept(base::Rank(1), shortly());
  ASSERT_FALSE(nobody.ok());
  EXPECT_EQ(nobody.error().code, ErrorCode::kTimeout);
  EXPECT_EQ(nobody.error().culprit, 1);

  std::string address;
  {
    Peer gone = make_peer(1);
    address = gone.transport->address();
  }
  EXPECT_FALSE(a.transport->connect(base::Rank(1), address, soon()).ok());
}

TEST_P(TransportConformance, AReceiveMayOutliveItsConnection) {
  link_pair();
  std::byte x{};
  Request recv = b.link->recv(Tag(1, 1, 0), base::writable_bytes_of(x));
  std::jthread waiter([&] { EXPECT_FALSE(recv.wait(soon()).ok()); });
  b.link.reset();
  b.transport.reset();
}

}  // namespace gearshift::testing
