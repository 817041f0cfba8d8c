#include <atomic>

#include "conformance/transport_conformance.h"

namespace gearshift::testing {

using transport::Request;
using transport::Tag;

namespace {
constexpr std::uint16_t kLoadService = 0xF0BB;
}

TEST_P(TransportConformance, CarriesThousandsOfSmallMessagesFromSeveralThreads) {
  link_pair();
  constexpr std::uint32_t kCount = 2000;
  constexpr std::uint16_t kThreads = 4;
  std::atomic<int> wrong{0};
  auto run = [&](transport::Connection& link, std::uint16_t channel, bool sends) {
    for (std::uint32_t i = 0; i < kCount; ++i) {
      const std::uint64_t expected = (std::uint64_t{channel} << 32) | i;
      std::uint64_t got = 0;
      const auto status =
          sends ? link.send(Tag(channel, i, 0), base::bytes_of(expected)).wait(soon())
                : link.recv(Tag(channel, i, 0), base::writable_bytes_of(got)).wait(soon());
      if (!status.ok() || (!sends && got != expected)) ++wrong;
    }
  };
  {
    std::vector<std::jthread> threads;
    for (std::uint16_t t = 0; t < kThreads; ++t) {
      auto& from = t % 2 == 0 ? *a.link : *b.link;
      auto& to = t % 2 == 0 ? *b.link : *a.link;
      threads.emplace_back(run, std::ref(from), t, true);
      threads.emplace_back(run, std::ref(to), t, false);
    }
  }
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(a.link->traffic().messages_sent, 2 * kCount);
  EXPECT_EQ(a.link->traffic().messages_received, 2 * kCount);
}

TEST_P(TransportConformance, LargeBodiesBothWaysAtOnceDoNotDeadlock) {
  link_pair();
  constexpr std::size_t kSize = 64 << 20;
  const auto from_a = pattern(kSize, 1);
  const auto from_b = pattern(kSize, 2);
  std::vector<std::byte> at_a(kSize);
  std::vector<std::byte> at_b(kSize);
  // From one thread: posting never waits for the peer.
  Request sends[] = {a.link->send(Tag(1, 1, 0), from_a), b.link->send(Tag(1, 1, 0), from_b)};
  Request recvs[] = {a.link->recv(Tag(1, 1, 0), at_a), b.link->recv(Tag(1, 1, 0), at_b)};
  for (auto& request : sends) ASSERT_TRUE(request.wait(soon()).ok());
  for (auto& request : recvs) ASSERT_TRUE(request.wait(soon()).ok());
  EXPECT_EQ(first_difference(at_a, from_b), -1);
  EXPECT_EQ(first_difference(at_b, from_a), -1);
}

TEST_P(TransportConformance, SmallAndLargeMessagesMix) {
  link_pair();
  const auto large = pattern(2000003, 5);
  constexpr std::uint32_t kRounds = 8;
  std::vector<std::vector<std::byte>> got(kRounds, std::vector<std::byte>(large.size()));
  constexpr char kSmall = 's';  // a body stays the sender's until its request is done
  std::vector<Request> requests;
  for (std::uint32_t i = 0; i < kRounds; ++i) {
    if (i % 2 == 0) requests.push_back(b.link->recv(Tag(1, i, 0), got[i]));
    requests.push_back(a.link->send(Tag(1, i, 0), large));
    requests.push_back(a.link->send(Tag(kLoadService, i, 0), base::bytes_of(kSmall)));
    if (i % 2 == 1) requests.push_back(b.link->recv(Tag(1, i, 0), got[i]));
  }
  for (auto& request : requests) ASSERT_TRUE(request.wait(soon()).ok());
  for (std::uint32_t i = 0; i < kRounds; ++i) {
    EXPECT_EQ(first_difference(got[i], large), -1) << i;
    auto message = b.router->mailbox(kLoadService)->pop(soon());
    ASSERT_TRUE(message.ok());
    EXPECT_EQ(message->tag.sequence(), i) << "small messages keep their order";
  }
}

TEST_P(TransportConformance, AFullMeshOfRanksTalksAtOnce) {
  constexpr int kRanks = 4;
  std::vector<Peer> peers;
  for (int rank = 0; rank < kRanks; ++rank) peers.push_back(make_peer(rank));
  std::vector<std::vector<std::unique_ptr<transport::Connection>>> links(kRanks);
  for (auto& row : links) row.resize(kRanks);
  auto run = [&](int me) {
    auto& mine = links[static_cast<std::size_t>(me)];
    const auto& self = peers[static_cast<std::size_t>(me)];
    for (int other = 0; other < kRanks; ++other) {
      if (other == me) continue;
      const auto at = static_cast<std::size_t>(other);
      auto made = other < me ? self.transport->connect(base::Rank(other),
                                                       peers[at].transport->address(), soon())
                             : self.transport->accept(base::Rank(other), soon());
      ASSERT_TRUE(made.ok()) << made.error().to_string();
      mine[at] = *std::move(made);
    }
    const auto sent = pattern(400000, static_cast<unsigned>(me));
    std::vector<std::vector<std::byte>> got(kRanks, std::vector<std::byte>(sent.size()));
    std::vector<Request> requests;
    for (std::size_t other = 0; other < kRanks; ++other) {
      if (!mine[other]) continue;
      requests.push_back(mine[other]->recv(Tag(1, 1, 0), got[other]));
      requests.push_back(mine[other]->send(Tag(1, 1, 0), sent));
    }
    for (auto& request : requests) EXPECT_TRUE(request.wait(soon()).ok());
    for (std::size_t other = 0; other < kRanks; ++other) {
      if (!mine[other]) continue;
      EXPECT_EQ(first_difference(got[other], pattern(sent.size(), static_cast<unsigned>(other))),
                -1);
    }
  };
  std::vector<std::jthread> ranks;
  for (int rank = 0; rank < kRanks; ++rank) ranks.emplace_back(run, rank);
}

}  // namespace gearshift::testing
