#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <system_error>

#include "gearshift/transport/shared_region.h"
#include "gearshift/transport/shm/factory.h"
#include "support/few_descriptors.h"
#include "support/few_threads.h"
#include "support/jumping_clock.h"
#include "transport/shm/acceptor.h"
#include "transport/shm/control.h"
#include "transport/shm/host.h"
#include "transport/shm/setup.h"

namespace gearshift::transport::shm {
namespace {

using base::ErrorCode;
using base::Fd;

class ShmSetupTest : public ::testing::Test {
 protected:
  std::unique_ptr<Transport> make(int rank) {
    auto made = create(*scheduler, std::make_shared<Router>(*scheduler),
                       {.rank = base::Rank(rank), .token = "secret"});
    EXPECT_TRUE(made.ok());
    return *std::move(made);
  }
  base::TimePoint soon() const { return scheduler->after(std::chrono::seconds(60)); }

  /// A socket that a stranger connected to a transport.
  static int stranger(const Transport& to) {
    const std::string name = Address::parse(to.address())->socket_name;
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path + 1, name.data(), name.size());
    const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
    const int fd = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    EXPECT_EQ(::connect(fd, reinterpret_cast<const sockaddr*>(&address), size), 0);
    return fd;
  }

  static Fd next_caller(const Listener& door) {
    pollfd waiting{door.socket.get(), POLLIN, 0};
    EXPECT_EQ(::poll(&waiting, 1, 60'000), 1);
    return accept_one(door.socket.get());
  }

  std::unique_ptr<gearshift::testing::FewThreads> scheduler =
      std::make_unique<gearshift::testing::FewThreads>();
};

TEST_F(ShmSetupTest, ReachesOnlyTheSameKernelNamespaceAndUser) {
  auto transport = make(0);
  EXPECT_EQ(transport->preference(), 20);
  Address address = *Address::parse(transport->address());
  EXPECT_TRUE(transport->reaches(make(1)->address()));
  EXPECT_FALSE(address.host.empty());
  for (std::size_t i = 0; i < address.host.size(); i += 5) {
    Address other = address;
    other.host[i] = other.host[i] == 'x' ? 'y' : 'x';
    EXPECT_FALSE(transport->reaches(other.to_string()));
  }
  for (const char* text : {"", "shm:", "shm", ":", "tcp://127.0.0.1:80"}) {
    EXPECT_FALSE(transport->reaches(text)) << text;
    EXPECT_FALSE(transport->connect(base::Rank(1), text, soon()).ok());
  }
}

TEST_F(ShmSetupTest, GarbageAndSilenceDisturbNobody) {
  auto server = make(0);
  auto client = make(1);
  const int silent = stranger(*server);
  const int noisy = stranger(*server);
  const char garbage[] = "GET / HTTP/1.1\r\nHost: elsewhere\r\n\r\n";
  ASSERT_GT(::send(noisy, garbage, sizeof garbage, MSG_NOSIGNAL), 0);
  std::unique_ptr<Connection> accepted;
  std::jthread acceptor([&] {
    auto connection = server->accept(base::Rank(1), soon());
    ASSERT_TRUE(connection.ok());
    accepted = *std::move(connection);
  });
  auto connected = client->connect(base::Rank(0), server->address(), soon());
  EXPECT_TRUE(connected.ok());
  char byte = 0;
  EXPECT_LE(::recv(noisy, &byte, 1, 0), 0) << "refused";
  acceptor.join();
  // The silent one is still in its handshake: the transport must not wait for it when it ends.
  server.reset();
  ::close(silent);
  ::close(noisy);
}

TEST_F(ShmSetupTest, StrangersCannotFillTheLog) {
  auto server = make(0);
  ::testing::internal::CaptureStderr();
  constexpr int kStrangers = 300;
  for (int i = 0; i < kStrangers; ++i) {
    const Fd one(stranger(*server));
    ASSERT_GT(::send(one.get(), "GET / HTTP/1.1", 14, MSG_NOSIGNAL), 0);
    char byte = 0;
    EXPECT_LE(::recv(one.get(), &byte, 1, 0), 0);
  }
  const std::string log = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(log.find("refused"), std::string::npos);
  EXPECT_LT(std::count(log.begin(), log.end(), '\n'), kStrangers / 2);
}

TEST_F(ShmSetupTest, AnotherUserTakesNoPlaceOfTheOwn) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can be another user";
  auto server = make(0);
  scheduler->none_left = true;
  ::testing::internal::CaptureStderr();
  const pid_t other = ::fork();
  if (other == 0) {
    if (::setuid(12345) != 0) ::_exit(1);
    char byte = 0;
    ::_exit(::recv(stranger(*server), &byte, 1, 0) == 0 ? 0 : 1);
  }
  int status = 1;
  ASSERT_EQ(::waitpid(other, &status, 0), other);
  EXPECT_EQ(status, 0);
  EXPECT_NE(::testing::internal::GetCapturedStderr().find("belongs to user 12345"),
            std::string::npos);
}

TEST_F(ShmSetupTest, WhoWasHeldUpTooLongForThePeerKnocksAgain) {
  gearshift::testing::JumpingClock clock;
  auto client =
      create(clock, std::make_shared<Router>(clock), {.rank = base::Rank(1), .token = "secret"});
  ASSERT_TRUE(client.ok());
  auto door = listen_anywhere();
  ASSERT_TRUE(door.ok());
  Address address = *Address::parse((*client)->address());
  address.socket_name = door->name;
  std::jthread peer([&] {
    {
      const Fd first = next_caller(*door);
      clock.jump(Acceptor::kPatience);
    }
    const Fd second = next_caller(*door);
    const Identity zero{.rank = base::Rank(0), .token = "secret"};
    ASSERT_TRUE(accept_link(*scheduler, zero, second.get(), soon()).ok());
    ControlRecord ready;
    ready.kind = ControlRecord::Kind::kReady;
    EXPECT_EQ(send_record(second.get(), ready), SendOutcome::kSent);
  });
  const auto connected =
      (*client)->connect(base::Rank(0), address.to_string(), clock.after(std::chrono::seconds(60)));
  EXPECT_TRUE(connected.ok()) << connected.error().to_string();
}

TEST_F(ShmSetupTest, ABrokenConnectionMayBeMadeAnew) {
  auto server = make(0);
  auto client = make(1);
  for (int round = 0; round < 3; ++round) {
    auto there = client->connect(base::Rank(0), server->address(), soon());
    ASSERT_TRUE(there.ok()) << there.error().to_string();
    auto here = server->accept(base::Rank(1), soon());
    ASSERT_TRUE(here.ok());
    (*here)->abort({ErrorCode::kAborted, "next"});
  }
}

TEST_F(ShmSetupTest, WhatWasSentBeforeTheAcceptArrivesEvenIfTheSenderHasGone) {
  auto server = make(0);
  auto client = make(1);
  const int sent = 42;
  auto there = client->connect(base::Rank(0), server->address(), soon());
  ASSERT_TRUE(there.ok());
  ASSERT_TRUE((*there)->send(Tag(1, 1, 0), base::bytes_of(sent)).wait(soon()).ok());
  (*there)->close(soon());
  there->reset();
  auto here = server->accept(base::Rank(1), soon());
  ASSERT_TRUE(here.ok()) << here.error().to_string();
  int got = 0;
  EXPECT_TRUE((*here)->recv(Tag(1, 1, 0), base::writable_bytes_of(got)).wait(soon()).ok());
  EXPECT_EQ(got, sent);
  const auto status = (*here)->recv(Tag(1, 2, 0), base::writable_bytes_of(got)).wait(soon());
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kClosed);
}

TEST_F(ShmSetupTest, RegionsPassInAnyOrderAndOutliveTheOffer) {
  auto server = make(0);
  auto client = make(1);
  auto there = client->connect(base::Rank(0), server->address(), soon());
  ASSERT_TRUE(there.ok());
  auto here = server->accept(base::Rank(1), soon());
  ASSERT_TRUE(here.ok());
  constexpr std::uint64_t kCount = 500;  // more than a socket holds
  for (std::uint64_t id = 0; id < kCount; ++id) {
    auto region = SharedRegion::create(4096);
    ASSERT_TRUE(region.ok());
    std::memcpy((*region)->view().data(), &id, sizeof id);
    ASSERT_TRUE((*here)->offer_region(id, **region).ok());
  }
  for (std::uint64_t id = kCount; id-- > 0;) {
    auto region = (*there)->accept_region(id, soon());
    ASSERT_TRUE(region.ok()) << region.error().to_string();
    std::uint64_t got = 0;
    std::memcpy(&got, (*region)->view().data(), sizeof got);
    EXPECT_EQ(got, id);
  }
  auto none = (*there)->accept_region(7, scheduler->after(std::chrono::milliseconds(20)));
  ASSERT_FALSE(none.ok());
  EXPECT_EQ(none.error().code, ErrorCode::kTimeout);
  (*here)->close(soon());
  none = (*there)->accept_region(7, soon());
  ASSERT_FALSE(none.ok());
  EXPECT_EQ(none.error().code, ErrorCode::kClosed);
  EXPECT_FALSE((*here)->offer_region(1, **SharedRegion::create(1)).ok());
}

TEST_F(ShmSetupTest, WithoutAThreadToSpareACallerIsTurnedAway) {
  auto transport = make(0);
  scheduler->none_left = true;
  const Fd caller(stranger(*transport));
  char byte = 0;
  EXPECT_EQ(::recv(caller.get(), &byte, 1, 0), 0);
  scheduler->none_left = false;
  const Fd later(stranger(*transport));
  EXPECT_NE(::recv(later.get(), &byte, 1, MSG_DONTWAIT), 0) << "is being greeted";
}

TEST_F(ShmSetupTest, ACallerWaitsForAThread) {
  auto server = make(0);
  auto client = make(1);
  scheduler->refusals = 3;
  const auto there = client->connect(base::Rank(0), server->address(), soon());
  EXPECT_TRUE(there.ok()) << there.error().to_string();
  EXPECT_EQ(scheduler->refusals, 0);
}

TEST_F(ShmSetupTest, WhoIsToldToStopWaitsNoLonger) {
  auto client = make(1);
  auto door = listen_anywhere();
  ASSERT_TRUE(door.ok());
  Address address = *Address::parse(client->address());
  address.socket_name = door->name;
  std::stop_source stop;
  std::jthread peer([&] {
    const Fd caller = next_caller(*door);  // and no answer
    stop.request_stop();
    pollfd end{caller.get(), POLLRDHUP, 0};
    EXPECT_EQ(::poll(&end, 1, 60'000), 1);
  });
  const auto connected =
      client->connect(base::Rank(0), address.to_string(), soon(), stop.get_token());
  ASSERT_FALSE(connected.ok());
  EXPECT_EQ(connected.error().code, ErrorCode::kAborted);
}

TEST_F(ShmSetupTest, WithoutAThreadThereIsNoTransport) {
  scheduler->none_left = true;
  EXPECT_THROW((void)create(*scheduler, std::make_shared<Router>(*scheduler), {}),
               std::system_error);
}

using gearshift::testing::FewDescriptors;

TEST_F(ShmSetupTest, WithoutADescriptorToSpareACallerIsTurnedAway) {
  auto transport = make(0);
  const FewDescriptors few(1);
  const Fd caller(stranger(*transport));  // the last one
  char byte = 0;
  EXPECT_EQ(::recv(caller.get(), &byte, 1, 0), 0);
}

/// As where the system's own table of files is full: giving up a descriptor helps nobody then.
TEST_F(ShmSetupTest, CallersThatCannotEvenBeTurnedAwayKeepNoProcessorBusy) {
  auto transport = make(0);
  const auto is_greeted = [this](const Fd& caller) {
    PacketStream stream(*scheduler, caller.get());
    Hello mine;
    mine.purpose = kPurposeLink;
    mine.rank = base::Rank(1);
    return handshake_as_client(stream, mine, "secret", soon()).ok();
  };
  const Fd first(stranger(*transport));
  EXPECT_TRUE(is_greeted(first));
  sockaddr_un there{};
  socklen_t size = sizeof there;
  ASSERT_EQ(::getpeername(first.get(), reinterpret_cast<sockaddr*>(&there), &size), 0);
  const Fd second(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  const double busy = gearshift::testing::busy_without_descriptors(
      [&] { EXPECT_EQ(::connect(second.get(), reinterpret_cast<sockaddr*>(&there), size), 0); });
  EXPECT_LT(busy, 0.1);
  EXPECT_TRUE(is_greeted(second));
}

TEST_F(ShmSetupTest, WhoHasNoDescriptorToConnectWithBlamesNobodyElse) {
  auto server = make(0);
  auto client = make(1);
  const base::TimePoint deadline = soon();
  const FewDescriptors none(0);
  const auto connected = client->connect(base::Rank(0), server->address(), deadline);
  ASSERT_FALSE(connected.ok());
  EXPECT_EQ(connected.error().code, ErrorCode::kIo);
  EXPECT_EQ(connected.error().culprit, 1);
}

TEST(ShmControlRecord, CutsNoCharacterOfAReasonInTwo) {
  for (const std::size_t before : {0, 1, 2}) {
    std::string text(before, 'x');
    for (int i = 0; i < 100; ++i) text += "\u9519";  // three bytes
    ControlRecord record;
    record.set_text(text);
    EXPECT_EQ((record.get_text().size() - before) % 3, 0U);
    EXPECT_GT(record.get_text().size(), 220U);
  }
}

TEST_F(ShmSetupTest, ALostDescriptorIsNotTakenForGarbage) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
  const Fd near(ends[0]);
  const Fd far(ends[1]);
  ControlRecord record;
  record.kind = ControlRecord::Kind::kSetup;
  ASSERT_EQ(send_record(near.get(), record, 0), SendOutcome::kSent);
  const base::TimePoint deadline = soon();  // UBSan needs descriptors for its look at `this`
  const FewDescriptors few(0);
  const auto received = await_record(*scheduler, far.get(), ControlRecord::Kind::kSetup, deadline);
  ASSERT_FALSE(received.ok());
  EXPECT_EQ(received.error().code, ErrorCode::kIo);
  EXPECT_NE(received.error().message.find("ulimit -n"), std::string::npos);
}

}  // namespace
}  // namespace gearshift::transport::shm
