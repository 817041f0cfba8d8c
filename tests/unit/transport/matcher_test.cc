#include "gearshift/transport/matcher.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <string_view>

#include "transport/patience.h"

namespace gearshift::transport {
namespace {

using base::Bytes;
using base::Error;
using base::ErrorCode;
using base::Rank;

class MatcherTest : public ::testing::Test {
 protected:
  base::TimePoint soon() const { return scheduler->after(std::chrono::seconds(60)); }
  base::TimePoint now() const { return scheduler->now(); }

  void land_and_complete(const char* text) {
    auto landing = matcher.arrive(tag, {}, std::strlen(text));
    ASSERT_TRUE(landing.ok()) << landing.error().to_string();
    std::memcpy((*landing)->into.data(), text, std::strlen(text));
    matcher.complete(*landing);
  }
  static base::ConstBytes text(std::string_view words) {
    return base::bytes_of(std::span<const char>(words));
  }
  static Bytes view(std::string& text) {
    return {reinterpret_cast<std::byte*>(text.data()), text.size()};
  }

  std::unique_ptr<base::Scheduler> scheduler = base::make_os_scheduler();
  Router router{*scheduler};
  Matcher matcher{router, Rank(5)};
  const Tag tag{1, 2, 3};
};

TEST_F(MatcherTest, LandsInThePostedMemoryItself) {
  std::string memory(5, ' ');
  Request recv = matcher.post(tag, view(memory));
  auto landing = matcher.arrive(tag, {}, 5);
  ASSERT_TRUE(landing.ok());
  EXPECT_EQ((*landing)->into.data(), view(memory).data());
  EXPECT_FALSE(recv.done());
  std::memcpy((*landing)->into.data(), "hello", 5);
  matcher.complete(*landing);
  EXPECT_TRUE(recv.done());
  EXPECT_TRUE(recv.wait(now()).ok());
  EXPECT_EQ(memory, "hello");
}

TEST_F(MatcherTest, AReceiveJoinsAMessageThatIsHalfIn) {
  auto landing = matcher.arrive(tag, {}, 5);
  ASSERT_TRUE(landing.ok());
  std::string memory(5, ' ');
  Request recv = matcher.post(tag, view(memory));
  EXPECT_FALSE(recv.done());
  std::memcpy((*landing)->into.data(), "hello", 5);
  matcher.complete(*landing);
  EXPECT_TRUE(recv.wait(now()).ok());
  EXPECT_EQ(memory, "hello");
}

TEST_F(MatcherTest, AReceiveThatLeavesAHalfArrivedMessageKeepsItForTheNext) {
  auto landing = matcher.arrive(tag, {}, 5);
  ASSERT_TRUE(landing.ok());
  std::string first(5, ' ');
  const auto status = matcher.post(tag, view(first)).wait(now());
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kTimeout);
  std::memcpy((*landing)->into.data(), "hello", 5);
  matcher.complete(*landing);
  std::string second(5, ' ');
  EXPECT_TRUE(matcher.post(tag, view(second)).wait(now()).ok());
  EXPECT_EQ(first, std::string(5, ' '));
  EXPECT_EQ(second, "hello");
}

TEST_F(MatcherTest, EqualTagsMatchInOrder) {
  std::string a(1, ' ');
  std::string b(1, ' ');
  Request first = matcher.post(tag, view(a));
  Request second = matcher.post(tag, view(b));
  for (const char* text : {"1", "2", "3", "4"}) land_and_complete(text);
  EXPECT_EQ(a + b, "12");
  EXPECT_TRUE(matcher.post(tag, view(a)).wait(now()).ok());
  EXPECT_TRUE(matcher.post(tag, view(b)).wait(now()).ok());
  EXPECT_EQ(a + b, "34");
}

TEST_F(MatcherTest, ATimeoutDuringArrivalBreaksTheConnectionFirst) {
  std::string memory(5, ' ');
  Request recv = matcher.post(tag, view(memory));
  auto landing = matcher.arrive(tag, {}, 5);
  int calls = 0;
  matcher.on_stuck([&](const Error& error) {
    ++calls;
    matcher.fail(error);
  });
  const auto status = recv.wait(now());
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kTimeout);
  EXPECT_EQ(status.error().culprit, 5);
  EXPECT_EQ(calls, 1);
  matcher.complete(*landing);  // too late, harmless
  EXPECT_FALSE(recv.wait(now()).ok());
}

TEST_F(MatcherTest, AnOutcomeStaysWhenTheEndOfTheLinkComesToItLater) {
  std::string memory(5, ' ');
  Request recv = matcher.post(tag, view(memory));
  const auto landing = matcher.arrive(tag, {}, 5);
  // Another task has ended the link and is about to say so here.
  matcher.on_stuck([](const Error&) {});
  EXPECT_EQ(recv.wait(now()).error().code, ErrorCode::kTimeout);
  matcher.fail({ErrorCode::kPeerLost, "gone"});
  EXPECT_EQ(recv.wait(now()).error().code, ErrorCode::kTimeout);
}

TEST_F(MatcherTest, AReceiveWaitsWhilePayloadMoves) {
  std::string memory(5, ' ');
  Request recv = matcher.post(tag, view(memory));
  const auto landing = matcher.arrive(tag, {}, 5);
  int looks = 0;
  matcher.follow([&] {
    ++looks;
    return Movement{.out = 0, .in = static_cast<std::uint64_t>(looks < 10 ? looks : 10)};
  });
  const auto status = recv.wait(scheduler->after(std::chrono::milliseconds(20)));
  EXPECT_EQ(status.error().code, ErrorCode::kTimeout);
  EXPECT_GT(looks, 10) << "not before it stood still";
}

TEST_F(MatcherTest, WhatLeavesCountsOnlyBeforeTheMessageBegins) {
  int looks = 0;
  std::uint64_t left = 0;
  matcher.follow([&] {
    ++looks;
    return Movement{.out = left = left < 10 ? left + 1 : left, .in = 0};
  });
  std::string memory(5, ' ');
  const auto wait = [&](const Request& recv) {
    looks = 0;
    left = 0;
    EXPECT_EQ(recv.wait(scheduler->after(std::chrono::milliseconds(20))).error().code,
              ErrorCode::kTimeout);
    return looks;
  };
  EXPECT_GT(wait(matcher.post(tag, view(memory))), 10);
  Request begun = matcher.post(tag, view(memory));
  const auto landing = matcher.arrive(tag, {}, 5);
  EXPECT_LE(wait(begun), 1 + Patience::kLooks);
}

TEST_F(MatcherTest, SizesMustAgree) {
  std::string memory(4, ' ');
  Request recv = matcher.post(tag, view(memory));
  auto landing = matcher.arrive(tag, {}, 5);
  ASSERT_TRUE(landing.ok());
  const auto status = recv.wait(soon());
  EXPECT_EQ(status.error().code, ErrorCode::kMismatch);
  EXPECT_EQ(status.error().culprit, 5);
  std::memcpy((*landing)->into.data(), "01234", 5);
  matcher.complete(*landing);
  EXPECT_EQ(memory, "    ");

  // What did not fit is gone: the next message is the next one's.
  recv = matcher.post(tag, view(memory));
  land_and_complete("good");
  EXPECT_TRUE(recv.wait(soon()).ok());
  EXPECT_EQ(memory, "good");
}

TEST_F(MatcherTest, SizesOfKeptMessagesMustAgree) {
  std::string memory(4, ' ');
  land_and_complete("whole");
  EXPECT_EQ(matcher.post(tag, view(memory)).wait(soon()).error().code, ErrorCode::kMismatch);
  const auto half = matcher.arrive(tag, {}, 5);
  ASSERT_TRUE(half.ok());
  EXPECT_EQ(matcher.post(tag, view(memory)).wait(soon()).error().code, ErrorCode::kMismatch);
  matcher.complete(*half);
  land_and_complete("good");
  EXPECT_TRUE(matcher.post(tag, view(memory)).wait(soon()).ok());
  EXPECT_EQ(memory, "good");
}

TEST_F(MatcherTest, AfterAFailureWholeMessagesAreStillMatched) {
  land_and_complete("hello");
  auto half = matcher.arrive(Tag(1, 2, 4), {}, 5);
  ASSERT_TRUE(half.ok());
  std::string memory(5, ' ');
  Request pending = matcher.post(Tag(1, 2, 5), view(memory));
  matcher.fail({ErrorCode::kPeerLost, "gone", 5});
  matcher.fail({ErrorCode::kIo, "the first reason stays"});
  EXPECT_EQ(pending.wait(soon()).error().code, ErrorCode::kPeerLost);
  EXPECT_EQ(matcher.post(Tag(1, 2, 4), view(memory)).wait(soon()).error().code,
            ErrorCode::kPeerLost);
  EXPECT_TRUE(matcher.post(tag, view(memory)).wait(soon()).ok());
  EXPECT_EQ(memory, "hello");
  EXPECT_EQ(matcher.post(tag, view(memory)).wait(soon()).error().code, ErrorCode::kPeerLost);
  EXPECT_FALSE(matcher.arrive(tag, {}, 5).ok());
}

TEST_F(MatcherTest, PhantomsMatchWithoutMemory) {
  constexpr std::uint64_t kSize = std::uint64_t{1} << 40;
  const Bytes into(static_cast<std::byte*>(nullptr), kSize);
  Request recv = matcher.post(tag, into);
  auto landing = matcher.arrive(tag, {}, kSize, true);
  ASSERT_TRUE(landing.ok());
  EXPECT_TRUE(base::is_phantom((*landing)->into));
  matcher.complete(*landing);
  EXPECT_TRUE(recv.wait(now()).ok());

  landing = matcher.arrive(tag, {}, kSize, true);
  ASSERT_TRUE(landing.ok());
  matcher.complete(*landing);
  EXPECT_TRUE(matcher.post(tag, into).wait(now()).ok());
}

TEST_F(MatcherTest, WhatArrivesWholeIsCopiedToWhereItIsWanted) {
  std::string memory(5, ' '), late(5, ' ');
  Request recv = matcher.post(tag, view(memory));
  EXPECT_TRUE(matcher.arrive_whole(tag, {}, text("hello")).ok());
  EXPECT_TRUE(recv.done());
  EXPECT_EQ(memory, "hello");
  EXPECT_TRUE(matcher.arrive_whole(tag, {}, text("early")).ok());
  EXPECT_TRUE(matcher.post(tag, view(late)).done());
  EXPECT_EQ(late, "early");

  const Tag service(kFirstService, 1, 2);
  EXPECT_TRUE(matcher.arrive_whole(service, text("head"), text("abc")).ok());
  const auto message = router.mailbox(kFirstService)->try_pop();
  ASSERT_TRUE(message.has_value());
  EXPECT_EQ(message->head.size(), 4U);
  EXPECT_EQ(std::memcmp(message->body.data(), "abc", 3), 0);
}

TEST_F(MatcherTest, PhantomsArriveWhole) {
  constexpr std::uint64_t kSize = std::uint64_t{1} << 40;
  const base::ConstBytes phantom(static_cast<const std::byte*>(nullptr), kSize);
  const Bytes into(static_cast<std::byte*>(nullptr), kSize);
  Request recv = matcher.post(tag, into);
  EXPECT_TRUE(matcher.arrive_whole(tag, {}, phantom).ok());
  EXPECT_TRUE(recv.done());
  EXPECT_TRUE(matcher.arrive_whole(tag, {}, phantom).ok());
  EXPECT_TRUE(matcher.post(tag, into).done());
}

TEST_F(MatcherTest, WhatArrivesWholeMustFitAndFindTheLinkUp) {
  std::string memory(5, ' ');
  Request recv = matcher.post(tag, view(memory));
  EXPECT_TRUE(matcher.arrive_whole(tag, {}, text("toolong")).ok());
  EXPECT_EQ(recv.wait(now()).error().code, ErrorCode::kMismatch);
  EXPECT_EQ(memory, "     ");
  matcher.fail({ErrorCode::kPeerLost, "gone"});
  for (const Tag& any : {tag, Tag(kFirstService, 1, 2)}) {
    EXPECT_EQ(matcher.arrive_whole(any, {}, text("hello")).error().code, ErrorCode::kPeerLost);
  }
}

TEST_F(MatcherTest, ServicesGoToTheRouterWithHeadAndSender) {
  const std::string head = "head";
  auto landing =
      matcher.arrive(Tag(kFirstService, 1, 2), base::bytes_of(std::span<const char>(head)), 3);
  ASSERT_TRUE(landing.ok());
  std::memcpy((*landing)->into.data(), "abc", 3);
  matcher.complete(*landing);
  auto message = router.mailbox(kFirstService)->try_pop();
  ASSERT_TRUE(message.has_value());
  EXPECT_EQ(message->from, Rank(5));
  EXPECT_EQ(message->tag, Tag(kFirstService, 1, 2));
  EXPECT_EQ(message->head.size(), 4U);
  EXPECT_EQ(std::memcmp(message->body.data(), "abc", 3), 0);
}

TEST_F(MatcherTest, AWaiterWakesWhenItsMessageCompletes) {
  std::string memory(5, ' ');
  Request recv = matcher.post(tag, view(memory));
  auto task = scheduler->spawn("waiter", [&] { EXPECT_TRUE(recv.wait(soon()).ok()); });
  land_and_complete("hello");
  task->join();
  EXPECT_EQ(memory, "hello");
}

}  // namespace
}  // namespace gearshift::transport
