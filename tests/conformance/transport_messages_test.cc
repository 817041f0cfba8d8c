#include <algorithm>
#include <cstring>

#include "conformance/transport_conformance.h"

namespace gearshift::testing {

using base::Bytes;
using base::ConstBytes;
using base::ErrorCode;
using transport::Request;
using transport::Tag;

namespace {
constexpr std::uint16_t kService = 0xF0AA;
constexpr std::size_t kSizes[] = {0, 1, 7, 1000, 1000003};
}  // namespace

TEST_P(TransportConformance, DescribesItself) {
  link_pair();
  EXPECT_FALSE(a.transport->name().empty());
  EXPECT_EQ(a.link->capabilities().transport, a.transport->name());
  EXPECT_TRUE(a.transport->reaches(b.transport->address()));
  EXPECT_FALSE(a.transport->reaches("carrier-pigeon://coop"));
  EXPECT_EQ(a.link->peer(), base::Rank(1));
  EXPECT_EQ(b.link->peer(), base::Rank(0));
  EXPECT_EQ(a.link->capabilities().shared_regions, maker->shares_regions());
}

TEST_P(TransportConformance, CarriesAllSizesInBothOrdersOfPosting) {
  link_pair();
  std::uint32_t sequence = 0;
  for (const std::size_t size : kSizes) {
    for (const bool early : {false, true}) {
      const auto sent = pattern(size, ++sequence);
      std::vector<std::byte> got(size);
      Request recv;
      if (!early) recv = b.link->recv(Tag(1, sequence, 0), got);
      Request send = a.link->send(Tag(1, sequence, 0), sent);
      EXPECT_TRUE(send.wait(soon()).ok());
      if (early) {
        // A message behind it has come, so (up to striping) this one has, too.
        std::byte marker{};
        ASSERT_TRUE(a.link->send(Tag(2, sequence, 0), base::bytes_of(marker)).wait(soon()).ok());
        ASSERT_TRUE(
            b.link->recv(Tag(2, sequence, 0), base::writable_bytes_of(marker)).wait(soon()).ok());
        recv = b.link->recv(Tag(1, sequence, 0), got);
      }
      const auto status = recv.wait(soon());
      ASSERT_TRUE(status.ok()) << size << ": " << status.error().to_string();
      EXPECT_TRUE(recv.done());
      EXPECT_EQ(first_difference(sent, got), -1) << size;
    }
  }
}

TEST_P(TransportConformance, CarriesUnalignedMemoryAndTouchesNothingAround) {
  link_pair();
  for (std::size_t offset = 0; offset < 9; ++offset) {
    const auto sent = pattern(300009, static_cast<unsigned>(offset));
    std::vector<std::byte> got(300020, std::byte{0x5A});
    const auto tag = Tag(1, static_cast<std::uint32_t>(offset), 3);
    const auto view = ConstBytes(sent).subspan(offset);
    const auto into = Bytes(got).subspan(offset + 1, view.size());
    Request recv = b.link->recv(tag, into);
    Request send = a.link->send(tag, view);
    ASSERT_TRUE(recv.wait(soon()).ok());
    ASSERT_TRUE(send.wait(soon()).ok());
    EXPECT_EQ(first_difference(view, into), -1);
    EXPECT_EQ(got[offset], std::byte{0x5A});
    EXPECT_EQ(got[offset + 1 + view.size()], std::byte{0x5A});
  }
}

TEST_P(TransportConformance, MatchesByTagNotByOrder) {
  link_pair();
  constexpr std::uint32_t kCount = 50;
  std::vector<std::uint32_t> numbers(kCount);
  std::vector<Request> receives;
  for (std::uint32_t i = 0; i < kCount; ++i) {
    const std::uint32_t number = kCount - 1 - i;
    receives.push_back(b.link->recv(Tag(7, number, 1), base::writable_bytes_of(numbers[number])));
  }
  for (std::uint32_t i = 0; i < kCount; ++i) {
    ASSERT_TRUE(a.link->send(Tag(7, i, 1), base::bytes_of(i)).wait(soon()).ok());
  }
  for (auto& receive : receives) ASSERT_TRUE(receive.wait(soon()).ok());
  for (std::uint32_t i = 0; i < kCount; ++i) EXPECT_EQ(numbers[i], i);
}

TEST_P(TransportConformance, ReusesATagOnceItsMessageHasBeenReceived) {
  link_pair();
  for (std::uint32_t i = 0; i < 100; ++i) {
    std::uint32_t got = 0;
    ASSERT_TRUE(a.link->send(Tag(7, 7, 7), base::bytes_of(i)).wait(soon()).ok());
    ASSERT_TRUE(b.link->recv(Tag(7, 7, 7), base::writable_bytes_of(got)).wait(soon()).ok());
    EXPECT_EQ(got, i);
  }
}

TEST_P(TransportConformance, DeliversServicesInOrderWithTheirHeads) {
  link_pair();
  constexpr std::uint32_t kCount = 200;
  for (std::uint32_t i = 0; i < kCount; ++i) {
    const auto body = pattern(i, i);
    // The head is copied at once: the variable changes under way.
    ASSERT_TRUE(a.link->send(Tag(kService, i, 2), base::bytes_of(i), body).wait(soon()).ok());
  }
  // Made late on purpose: messages that came before are in it.
  auto box = b.router->mailbox(kService);
  for (std::uint32_t i = 0; i < kCount; ++i) {
    auto message = box->pop(soon());
    ASSERT_TRUE(message.ok()) << message.error().to_string();
    EXPECT_EQ(message->from, base::Rank(0));
    EXPECT_EQ(message->tag, Tag(kService, i, 2));
    ASSERT_EQ(message->head.size(), sizeof(i));
    EXPECT_EQ(std::memcmp(message->head.data(), &i, sizeof(i)), 0);
    EXPECT_EQ(first_difference(message->body.view(), pattern(i, i)), -1);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(message->body.data()) % 64, 0U);
  }
}

TEST_P(TransportConformance, DeliversLargeServiceMessagesWhole) {
  link_pair();
  const auto head = pattern(transport::kMaxHeadBytes, 1);
  const auto body = pattern(3000001, 2);
  Request send = a.link->send(Tag(kService, 1, 0), head, body);
  auto message = b.router->mailbox(kService)->pop(soon());
  ASSERT_TRUE(message.ok());
  ASSERT_TRUE(send.wait(soon()).ok());
  EXPECT_EQ(first_difference(message->head, head), -1);
  EXPECT_EQ(first_difference(message->body.view(), body), -1);
}

TEST_P(TransportConformance, ALentMessageIsAsAnyOther) {
  link_pair();
  for (const std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{100'001}}) {
    const auto body = pattern(size, 3);
    const auto number = static_cast<std::uint32_t>(size);
    // To a receive, posted before or after.
    for (const std::uint16_t late : {0, 1}) {
      std::vector<std::byte> into(size);
      Request receive = late == 0 ? b.link->recv(Tag(4, number, late), into) : Request();
      Request send = a.link->send_lent(Tag(4, number, late), {}, body);
      if (late == 1) receive = b.link->recv(Tag(4, number, late), into);
      ASSERT_TRUE(receive.wait(soon()).ok());
      ASSERT_TRUE(send.wait(soon()).ok());
      EXPECT_EQ(first_difference(into, body), -1);
    }
    // To a mailbox: the sender is free when the reader is.
    Request send = a.link->send_lent(Tag(kService, number, 0), base::bytes_of(number), body);
    {
      auto message = b.router->mailbox(kService)->pop(soon());
      ASSERT_TRUE(message.ok());
      ASSERT_EQ(message->head.size(), sizeof number);
      EXPECT_EQ(std::memcmp(message->head.data(), &number, sizeof number), 0);
      EXPECT_EQ(first_difference(message->body.view(), body), -1);
    }
    ASSERT_TRUE(send.wait(soon()).ok());
  }
}

TEST_P(TransportConformance, ALimitOfTheFlowLosesNothing) {
  link_pair();
  const auto body = pattern(3'000'001, 5);
  std::uint32_t number = 0;
  // Two limits, and the ends of both.
  for (const std::size_t limit :
       {std::size_t{1}, std::size_t{100'000}, std::size_t{0}, std::size_t{0}}) {
    a.link->limit_flow({.out = limit});
    b.link->limit_flow({.in = limit});
    std::vector<std::byte> into(body.size());
    Request receive = b.link->recv(Tag(4, ++number, 0), into);
    Request send = a.link->send(Tag(4, number, 0), body);
    ASSERT_TRUE(receive.wait(soon()).ok());
    ASSERT_TRUE(send.wait(soon()).ok());
    EXPECT_EQ(first_difference(into, body), -1);
  }
}

TEST_P(TransportConformance, RefusesReceivesOfServicesAndOversizedMessages) {
  link_pair();
  std::byte one{};
  const auto wrong = b.link->recv(Tag(kService, 0, 0), base::writable_bytes_of(one)).wait(soon());
  ASSERT_FALSE(wrong.ok());
  EXPECT_EQ(wrong.error().code, ErrorCode::kInvalidArgument);

  const std::vector<std::byte> head(transport::kMaxHeadBytes + 1);
  const auto large = a.link->send(Tag(1, 1, 1), head, {}).wait(soon());
  ASSERT_FALSE(large.ok());
  EXPECT_EQ(large.error().code, ErrorCode::kInvalidArgument);
}

TEST_P(TransportConformance, TreatsPhantomsAsItSays) {
  link_pair();
  const ConstBytes phantom(static_cast<const std::byte*>(nullptr), 1U << 30);
  const Bytes into(static_cast<std::byte*>(nullptr), 1U << 30);
  Request early = a.link->send(Tag(1, 1, 0), phantom);
  Request recv = b.link->recv(Tag(1, 1, 0), into);
  if (!maker->carries_phantoms()) {
    EXPECT_EQ(early.wait(soon()).error().code, ErrorCode::kInvalidArgument);
    EXPECT_EQ(recv.wait(soon()).error().code, ErrorCode::kInvalidArgument);
    return;
  }
  EXPECT_TRUE(early.wait(soon()).ok());
  EXPECT_TRUE(recv.wait(soon()).ok());
  recv = b.link->recv(Tag(1, 2, 0), into);
  EXPECT_TRUE(a.link->send(Tag(1, 2, 0), phantom).wait(soon()).ok());
  EXPECT_TRUE(recv.wait(soon()).ok());
  EXPECT_TRUE(a.link->send(Tag(kService, 0, 0), phantom).wait(soon()).ok());
  auto message = b.router->mailbox(kService)->pop(soon());
  ASSERT_TRUE(message.ok());
  EXPECT_TRUE(base::is_phantom(message->body.view()));
  EXPECT_EQ(message->body.size(), phantom.size());
}

TEST_P(TransportConformance, CountsTraffic) {
  link_pair();
  const auto sent = pattern(500000, 1);
  std::vector<std::byte> got(sent.size());
  Request recv = b.link->recv(Tag(1, 1, 0), got);
  ASSERT_TRUE(a.link->send(Tag(1, 1, 0), sent).wait(soon()).ok());
  ASSERT_TRUE(recv.wait(soon()).ok());
  EXPECT_GE(a.link->traffic().bytes_sent, sent.size());
  EXPECT_LE(a.link->traffic().bytes_sent, sent.size() + 4096);
  EXPECT_GE(b.link->traffic().bytes_received, sent.size());
  EXPECT_EQ(a.link->traffic().messages_sent, 1U);
  EXPECT_EQ(b.link->traffic().messages_received, 1U);
  EXPECT_EQ(a.link->traffic().messages_received, 0U);
}

}  // namespace gearshift::testing
