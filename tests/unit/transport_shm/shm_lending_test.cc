// Bodies that the peer reads in the sender's memory.

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <mutex>
#include <optional>

#include "gearshift/transport/shm/factory.h"
#include "support/ranks.h"
#include "transport/shm/engine.h"
#include "transport/shm/frame.h"
#include "transport/shm/lending.h"

namespace gearshift::transport::shm {
namespace {

using base::ErrorCode;

constexpr std::uint16_t kService = kServerService;
constexpr std::size_t kBytes = 1 << 20;

/// Two ranks of one process, linked.
class LendingTest : public ::testing::Test {
 protected:
  void SetUp() override {
    transport::Connection* ends[2] = {nullptr, nullptr};
    std::string address;
    for (int r = 0; r < 2; ++r) {
      auto made = create(*scheduler, routers[r], {base::Rank(r), base::Generation(1), "token"},
                         {.ring_bytes = 4096});
      ASSERT_TRUE(made.ok());
      transports[r] = std::move(*made);
    }
    testing::run_ranks(*scheduler, 2, [&](int r) {
      auto made = r == 0 ? transports[0]->connect(base::Rank(1), transports[1]->address(), soon())
                         : transports[1]->accept(base::Rank(0), soon());
      ASSERT_TRUE(made.ok());
      links[r] = std::move(*made);
      ends[r] = links[r].get();
    });
    ASSERT_TRUE(ends[0] != nullptr && ends[1] != nullptr);
    region = *SharedRegion::create(kBytes);
    for (std::size_t i = 0; i < kBytes; ++i) region->view()[i] = static_cast<std::byte>(i % 251);
  }

  base::TimePoint soon() const { return scheduler->after(std::chrono::seconds(60)); }
  base::TimePoint shortly() const { return scheduler->after(std::chrono::milliseconds(30)); }
  base::ConstBytes memory() const { return region->view(); }

  Message take() {
    auto message = routers[1]->mailbox(kService)->pop(soon());
    EXPECT_TRUE(message.ok());
    return std::move(*message);
  }
  /// Lends the region, and waits until bodies are really lent.
  void lend() {
    auto made = links[0]->lend(*region);
    ASSERT_TRUE(made.ok()) << made.error().message;
    loan = std::move(*made);
    for (const base::TimePoint limit = soon(); scheduler->now() < limit;) {
      const Request sent = links[0]->send_lent(Tag(kService, 1, 0), {}, memory());
      const bool lent = take().body.is_borrowed();
      ASSERT_TRUE(sent.wait(soon()).ok());
      if (lent) return;
    }
    FAIL() << "the peer never said that it had mapped the region";
  }

  std::unique_ptr<base::Scheduler> scheduler = base::make_os_scheduler();
  std::shared_ptr<Router> routers[2] = {std::make_shared<Router>(*scheduler),
                                        std::make_shared<Router>(*scheduler)};
  std::unique_ptr<Transport> transports[2];
  std::unique_ptr<SharedRegion> region;
  std::unique_ptr<Connection> links[2];
  std::unique_ptr<LentRegion> loan;
};

TEST_F(LendingTest, AMailboxReadsTheSendersMemoryUntilItLetsGo) {
  lend();
  const base::ConstBytes body = memory().subspan(64, 100'000);
  const Request sent = links[0]->send_lent(Tag(kService, 2, 0), base::bytes_of(kBytes), body);
  {
    const Message message = take();
    EXPECT_EQ(message.head.size(), sizeof kBytes);
    ASSERT_EQ(message.body.size(), body.size());
    EXPECT_EQ(std::memcmp(message.body.data(), body.data(), body.size()), 0);
    region->view()[64] = std::byte{99};
    EXPECT_EQ(message.body.data()[0], std::byte{99}) << "it is a copy";
    EXPECT_FALSE(sent.done());
    const base::Status early = sent.wait(shortly());
    ASSERT_FALSE(early.ok());
    EXPECT_EQ(early.error().code, ErrorCode::kTimeout);
  }
  // The link is well, though one send was given up.
  const Request next = links[0]->send_lent(Tag(kService, 3, 0), {}, body);
  take();
  EXPECT_TRUE(next.wait(soon()).ok());
}

TEST_F(LendingTest, WhoWaitsIsWokenByTheReturn) {
  lend();
  const Request sent = links[0]->send_lent(Tag(kService, 2, 0), {}, memory());
  std::optional<Message> message = take();
  const base::TimePoint deadline = soon();
  auto waiter = scheduler->spawn("waiter", [&] { EXPECT_TRUE(sent.wait(deadline).ok()); });
  scheduler->sleep_for(std::chrono::milliseconds(20));  // it sleeps by now, and so do the engines
  message.reset();
  waiter->join();
  EXPECT_LT(scheduler->now(), deadline);
}

TEST_F(LendingTest, ReceivesAreFilledFromTheSendersMemory) {
  lend();
  const std::uint64_t messages = links[0]->traffic().messages_sent;
  const std::uint64_t bytes = links[0]->traffic().bytes_sent;
  std::vector<std::byte> into(kBytes);
  const Request received = links[1]->recv(Tag(7, 1, 0), into);
  const Request sent = links[0]->send_lent(Tag(7, 1, 0), {}, memory());
  ASSERT_TRUE(received.wait(soon()).ok());
  ASSERT_TRUE(sent.wait(soon()).ok());
  EXPECT_EQ(std::memcmp(into.data(), memory().data(), kBytes), 0);
  EXPECT_EQ(links[0]->traffic().messages_sent, messages + 1);
  EXPECT_GE(links[0]->traffic().bytes_sent, bytes + kBytes) << "lent bytes count as sent";
}

TEST_F(LendingTest, ABodyElsewhereOrSmallIsCopied) {
  lend();
  const std::vector<std::byte> elsewhere(kBytes);
  const Request sent = links[0]->send_lent(Tag(kService, 2, 0), {}, elsewhere);
  EXPECT_FALSE(take().body.is_borrowed());
  const Request small = links[0]->send_lent(Tag(kService, 3, 0), {}, memory().first(100));
  EXPECT_TRUE(small.wait(soon()).ok())
      << "the ring holds it: nobody has to read it, or give it back";
  EXPECT_FALSE(take().body.is_borrowed());
  EXPECT_TRUE(sent.wait(soon()).ok());
}

TEST_F(LendingTest, ARegionThatIsTakenBackStaysReadableForItsReaders) {
  lend();
  const Request sent = links[0]->send_lent(Tag(kService, 2, 0), {}, memory());
  std::optional<Message> message = take();
  loan.reset();
  const Request copied = links[0]->send_lent(Tag(kService, 3, 0), {}, memory());
  EXPECT_FALSE(take().body.is_borrowed());
  EXPECT_TRUE(copied.wait(soon()).ok());
  region.reset();
  EXPECT_EQ(message->body.data()[250], std::byte{250});
  message.reset();
  EXPECT_TRUE(sent.wait(soon()).ok());
}

TEST_F(LendingTest, ABrokenLinkEndsTheLoans) {
  lend();
  const Request sent = links[0]->send_lent(Tag(kService, 2, 0), {}, memory());
  const Message message = take();
  links[1]->abort({ErrorCode::kAborted, "end of test"});
  const base::Status failed = sent.wait(soon());
  ASSERT_FALSE(failed.ok());
  EXPECT_NE(failed.error().code, ErrorCode::kTimeout);
  EXPECT_EQ(message.body.data()[250], std::byte{250}) << "the reader is not disturbed";
}

TEST_F(LendingTest, ManyLoansOfBothSidesAtOnce) {
  lend();
  auto other = SharedRegion::create(kBytes);
  ASSERT_TRUE(other.ok());
  auto back = links[1]->lend(**other);
  ASSERT_TRUE(back.ok());
  testing::run_ranks(*scheduler, 2, [&](int r) {
    const base::ConstBytes mine = r == 0 ? memory() : (*other)->view();
    auto mailbox = routers[r]->mailbox(kService);
    std::vector<Request> sends;
    std::vector<Message> kept;
    for (std::uint32_t i = 0; i < 200; ++i) {
      const base::ConstBytes body = mine.subspan(i * 64, 20'000);
      sends.push_back(links[r]->send_lent(Tag(kService, i, 0), base::bytes_of(i), body));
      auto message = mailbox->pop(soon());
      ASSERT_TRUE(message.ok());
      ASSERT_EQ(message->body.size(), 20'000U);
      kept.push_back(std::move(*message));
      if (kept.size() > 7) kept.erase(kept.begin() + (i % 7));  // not in the order of the sends
    }
    kept.clear();
    for (const Request& sent : sends) EXPECT_TRUE(sent.wait(soon()).ok());
  });
}

TEST(LentRegions, AreFoundOnceTheyAreMapped) {
  const std::vector<std::byte> memory(1000);
  const base::ConstBytes all(memory);
  LentRegions regions(10);
  const std::uint64_t id = regions.add(all);
  EXPECT_FALSE(regions.find(all.subspan(100, 50)).has_value());
  regions.confirm(id);
  const auto place = regions.find(all.subspan(100, 50));
  ASSERT_TRUE(place.has_value());
  EXPECT_EQ(place->region, id);
  EXPECT_EQ(place->offset, 100U);
  EXPECT_FALSE(regions.find(all.subspan(100, 9)).has_value()) << "too small";
  EXPECT_TRUE(regions.find(all).has_value());
  regions.remove(id);
  EXPECT_FALSE(regions.find(all).has_value());
  regions.confirm(id);  // news from a peer of what is over
  EXPECT_FALSE(regions.find(all).has_value());
}

TEST(BorrowedRegions, BelieveOnlyWhatIsPossible) {
  BorrowedRegions regions;
  const std::shared_ptr<SharedRegion> region = *SharedRegion::create(4096);
  ASSERT_TRUE(*regions.add(1, region));
  EXPECT_TRUE(regions.find({.region = 1, .offset = 96}, 4000).ok());
  EXPECT_EQ(regions.find({.region = 2, .offset = 0}, 1).error().code, ErrorCode::kProtocol);
  EXPECT_EQ(regions.find({.region = 1, .offset = 97}, 4000).error().code, ErrorCode::kProtocol);
  EXPECT_EQ(regions.find({.region = 1, .offset = ~0ULL}, 2).error().code, ErrorCode::kProtocol);
  EXPECT_EQ(regions.add(1, region).error().code, ErrorCode::kProtocol);
  regions.forget(7);
  EXPECT_FALSE(*regions.add(7, region)) << "taken back before it came";
  EXPECT_TRUE(*regions.add(7, region));
}

}  // namespace
}  // namespace gearshift::transport::shm
