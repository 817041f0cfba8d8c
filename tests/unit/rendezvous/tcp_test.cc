// What can go wrong between a store's server and its clients, and who else may call.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include "gearshift/rendezvous/tcp/factory.h"
#include "rendezvous/tcp/socket.h"
#include "rendezvous/tcp/wire.h"
#include "support/few_threads.h"
#include "support/ranks.h"
#include "support/stopped_clock.h"
#include "unit/rendezvous/testing.h"

namespace gearshift::rendezvous::tcp {
namespace {

using base::ErrorCode;
using base::Fd;
using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::HasSubstr;

class TcpStoreTest : public ::testing::Test {
 protected:
  std::unique_ptr<base::Scheduler> scheduler_ = base::make_os_scheduler();
  std::unique_ptr<Server> server_ = std::move(serve(*scheduler_, "127.0.0.1", 0, "secret")).value();
  int port() const { return gearshift::testing::port_of(server_->address()); }
  base::TimePoint later() const { return scheduler_->after(seconds(20)); }

  std::unique_ptr<Store> client() {
    return std::move(connect(*scheduler_, "127.0.0.1", port(), "secret", later())).value();
  }
  Socket stranger() { return std::move(dial(*scheduler_, "127.0.0.1", port(), later())).value(); }
  /// Whether the server ends this connection (within its patience for handshakes).
  bool refused(Socket& socket) {
    std::byte sink;
    while (true) {
      const auto status = socket.read_exact({&sink, 1}, later());
      if (!status) return status.error().code == ErrorCode::kIo;
    }
  }
  void expect_works() {
    auto store = client();
    EXPECT_TRUE(store->set("k", "v"));
    EXPECT_EQ(store->get("k", later()).value(), "v");
  }
};

TEST_F(TcpStoreTest, SaysItsRealAddress) {
  EXPECT_GT(port(), 0);
  EXPECT_EQ(server_->address(), "127.0.0.1:" + std::to_string(port()));
  EXPECT_EQ(client()->address(), "tcp://127.0.0.1:" + std::to_string(port()));
}

TEST_F(TcpStoreTest, AClientWaitsForAThreadOfTheServer) {
  gearshift::testing::FewThreads few;
  const auto server = std::move(serve(few, "127.0.0.1", 0, "secret")).value();
  few.refusals = 3;
  Socket socket = std::move(dial(*scheduler_, "127.0.0.1",
                                 gearshift::testing::port_of(server->address()), later()))
                      .value();
  EXPECT_TRUE(transport::handshake_as_client(socket, store_hello(), "secret", later()));
  EXPECT_EQ(few.refusals, 0);
}

TEST_F(TcpStoreTest, AClientWaitsNoLongerThanItsUserWants) {
  const auto silent = std::move(listen_on("127.0.0.1", 0)).value();
  const int port = gearshift::testing::port_of(text_of(*bound_address(silent.front())));
  int asked = 0;
  const auto store = connect(*scheduler_, "127.0.0.1", port, "secret", base::TimePoint::never(),
                             nullptr, nullptr, kLeastAnswerTime, [&]() -> base::Status {
                               if (++asked < 3) return {};
                               return base::Error(ErrorCode::kAborted, "its user wants it");
                             });
  ASSERT_FALSE(store);
  EXPECT_EQ(store.error().code, ErrorCode::kAborted);
  EXPECT_EQ(asked, 3);
}

TEST_F(TcpStoreTest, AClientLearnsWhichAddressOfItsOwnTheServerSees) {
  for (const std::string host : {"127.0.0.1", "::1"}) {
    const auto served = serve(*scheduler_, host, 0, "secret");
    if (!served && host == "::1") GTEST_SKIP() << "no IPv6 here: " << served.error().message;
    std::string own;
    const int port = gearshift::testing::port_of((*served)->address());
    ASSERT_TRUE(connect(*scheduler_, host, port, "secret", later(), &own));
    EXPECT_EQ(own, host);
  }
}

TEST_F(TcpStoreTest, ServesOnAllAddressesOfAName) {
  const auto addresses = resolve("localhost", 0, true).value();
  const auto served = serve(*scheduler_, "localhost", 0, "secret");
  ASSERT_TRUE(served) << served.error().message;
  const int port = gearshift::testing::port_of((*served)->address());
  for (const Address& address : addresses) {
    if (!listen_on(host_text(address), 0)) continue;  // no IPv6 here
    EXPECT_TRUE(connect(*scheduler_, host_text(address), port, "secret", later()))
        << host_text(address);
  }
  // And is alone there.
  EXPECT_FALSE(serve(*scheduler_, "localhost", port, "secret"));
}

TEST_F(TcpStoreTest, AnEmptyNameStandsForAllAddressesOfTheHost) {
  const auto served = serve(*scheduler_, "", 0, "secret");
  ASSERT_TRUE(served) << served.error().message;
  const int port = gearshift::testing::port_of((*served)->address());
  EXPECT_TRUE(connect(*scheduler_, "127.0.0.1", port, "secret", later()));
  if (!listen_on("::1", 0)) GTEST_SKIP() << "no IPv6 here";
  EXPECT_TRUE(connect(*scheduler_, "::1", port, "secret", later()));
}

TEST_F(TcpStoreTest, WrongTokenIsRefusedAtOnce) {
  const base::TimePoint start = scheduler_->now();
  const auto store = connect(*scheduler_, "127.0.0.1", port(), "wrong", later());
  ASSERT_FALSE(store);
  EXPECT_EQ(store.error().code, ErrorCode::kUnauthenticated);
  EXPECT_THAT(store.error().message, HasSubstr(std::to_string(port())));
  EXPECT_LT(scheduler_->now() - start, seconds(5));
  expect_works();
}

/// A port that nobody else is given. Nobody listens on it until a server of the test does.
class HeldPort {
 public:
  HeldPort() : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    const int on = 1;
    EXPECT_EQ(::setsockopt(fd_.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on), 0);
    const Address any = resolve("127.0.0.1", 0, true).value().front();
    EXPECT_EQ(::bind(fd_.get(), any.get(), any.size), 0);
  }
  int number() const { return gearshift::testing::port_of(text_of(bound_address(fd_).value())); }

 private:
  const Fd fd_;
};

TEST_F(TcpStoreTest, TimeoutSaysWhereAndWhy) {
  const HeldPort port;
  const int free_port = port.number();
  const auto store =
      connect(*scheduler_, "127.0.0.1", free_port, "secret", scheduler_->after(milliseconds(200)));
  ASSERT_FALSE(store);
  EXPECT_EQ(store.error().code, ErrorCode::kTimeout);
  EXPECT_THAT(store.error().message, HasSubstr("127.0.0.1:" + std::to_string(free_port)));
  EXPECT_THAT(store.error().message, HasSubstr("refused"));
}

TEST_F(TcpStoreTest, NamesOfBothFamiliesAreDialledByIpv4First) {
  std::vector<Address> addresses;
  for (const char* host : {"::1", "127.0.0.1", "::2", "127.0.0.2"}) {
    addresses.push_back(resolve(host, 1, false).value().front());
  }
  std::string order;
  for (const Address& address : in_dialling_order(addresses)) order += host_text(address) + " ";
  EXPECT_EQ(order, "127.0.0.1 127.0.0.2 ::1 ::2 ");
}

TEST_F(TcpStoreTest, EachAddressSaysWhyItDoesNotAnswer) {
  const HeldPort port;
  std::vector<Address> addresses;
  for (const char* host : {"127.0.0.1", "127.0.0.2"}) {
    addresses.push_back(resolve(host, port.number(), false).value().front());
  }
  const auto socket = dial_any(*scheduler_, addresses, later());
  ASSERT_FALSE(socket);
  for (const Address& address : addresses) {
    EXPECT_THAT(socket.error().message, HasSubstr(text_of(address) + ": Connection refused"));
  }
}

TEST_F(TcpStoreTest, ClientMayComeBeforeTheServer) {
  const HeldPort port;
  const int free_port = port.number();
  auto starter = scheduler_->spawn("starter", [&] {
    scheduler_->sleep_for(milliseconds(150));
    server_ = std::move(serve(*scheduler_, "127.0.0.1", free_port, "secret")).value();
  });
  const auto store = connect(*scheduler_, "127.0.0.1", free_port, "secret", later());
  starter->join();
  ASSERT_TRUE(store);
  EXPECT_TRUE((*store)->set("k", "v"));
}

TEST_F(TcpStoreTest, AServerThatIsAboutToEndIsWaitedOut) {
  const int at = port();
  std::uint64_t number = 0;
  ASSERT_TRUE(connect(*scheduler_, "127.0.0.1", at, "secret", later(), nullptr, &number));
  const std::uint64_t former = number;
  EXPECT_NE(former, 0U);
  gearshift::testing::StoppedClock clock;  // the last answer is not cut off, however late it is
  const auto in_vain =
      connect(clock, "127.0.0.1", at, "secret", clock.after(seconds(1)), nullptr, &number);
  ASSERT_FALSE(in_vain);
  EXPECT_THAT(in_vain.error().message, HasSubstr("has left"));
  auto next = scheduler_->spawn("next", [&] {
    scheduler_->sleep_for(milliseconds(50));
    server_.reset();
    server_ = std::move(serve(*scheduler_, "127.0.0.1", at, "secret")).value();
  });
  auto store = connect(*scheduler_, "127.0.0.1", at, "secret", later(), nullptr, &number);
  next->join();
  ASSERT_TRUE(store) << store.error().message;
  EXPECT_NE(number, former);
  EXPECT_TRUE((*store)->set("k", "v"));
}

TEST_F(TcpStoreTest, AddressInUseIsAnError) {
  const auto second = serve(*scheduler_, "127.0.0.1", port(), "secret");
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::kIo);
  EXPECT_THAT(second.error().message, HasSubstr(std::to_string(port())));
}

TEST_F(TcpStoreTest, RefusesImpossiblePortsAndNames) {
  EXPECT_EQ(serve(*scheduler_, "127.0.0.1", 70000, "s").error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(connect(*scheduler_, "127.0.0.1", 0, "s", later()).error().code,
            ErrorCode::kInvalidArgument);
  EXPECT_EQ(serve(*scheduler_, "no-such-host.invalid", 0, "s").error().code,
            ErrorCode::kInvalidArgument);
}

TEST_F(TcpStoreTest, ServesIpv6) {
  auto six = serve(*scheduler_, "::1", 0, "secret");
  if (!six) GTEST_SKIP() << "no IPv6 here: " << six.error().message;
  EXPECT_THAT((*six)->address(), ::testing::StartsWith("[::1]:"));
  const int port = gearshift::testing::port_of((*six)->address());
  auto store = connect(*scheduler_, "[::1]", port, "secret", later());
  ASSERT_TRUE(store) << store.error().message;
  EXPECT_TRUE((*store)->set("k", "v"));
}

TEST_F(TcpStoreTest, StoppingEndsWaitingClients) {
  auto store = client();
  auto waiter = scheduler_->spawn("waiter", [&] {
    const auto value = store->get("never", later());
    ASSERT_FALSE(value);
    EXPECT_EQ(value.error().code, ErrorCode::kIo);
    EXPECT_THAT(value.error().message, HasSubstr("lost the rendezvous store"));
  });
  scheduler_->sleep_for(milliseconds(100));
  server_.reset();
  waiter->join();
  EXPECT_EQ(store->set("k", "v").error().code, ErrorCode::kIo);
}

TEST_F(TcpStoreTest, GarbageIsRefused) {
  Socket socket = stranger();
  const std::string garbage(100'000, 'G');
  // The server may hang up before all of it is written.
  (void)socket.write_all(base::bytes_of(std::span<const char>(garbage)), later()).ok();
  EXPECT_TRUE(refused(socket));
  expect_works();
}

TEST_F(TcpStoreTest, SilentAndSlowStrangersHoldUpNobody) {
  std::vector<Socket> strangers;
  for (int i = 0; i < 40; ++i) strangers.push_back(stranger());
  Socket slow = stranger();
  const std::string magic = "GEARS";
  ASSERT_TRUE(slow.write_all(base::bytes_of(std::span<const char>(magic)), later()));
  const base::TimePoint start = scheduler_->now();
  expect_works();
  EXPECT_LT(scheduler_->now() - start, seconds(5));
}

TEST_F(TcpStoreTest, MoreStrangersThanPlacesAreTurnedAway) {
  std::vector<Socket> strangers;
  for (int i = 0; i < 300; ++i) strangers.push_back(stranger());
  EXPECT_TRUE(refused(strangers.back()));
  strangers.clear();
  expect_works();
}

TEST_F(TcpStoreTest, StrangersThatVanishLeaveNothing) {
  for (int i = 0; i < 400; ++i) stranger();
  expect_works();
}

class ProvedStrangerTest : public TcpStoreTest {
 protected:
  Socket proved() {
    Socket socket = stranger();
    EXPECT_TRUE(transport::handshake_as_client(socket, store_hello(), "secret", later()));
    return socket;
  }
};

TEST_F(ProvedStrangerTest, OversizedFrameIsRefusedBeforeItIsRead) {
  Socket socket = proved();
  const std::uint32_t size = 0xFFFFFFFF;
  ASSERT_TRUE(socket.write_all(base::bytes_of(size), later()));
  EXPECT_TRUE(refused(socket));
  expect_works();
}

TEST_F(ProvedStrangerTest, NonsenseInsideAFrameIsRefused) {
  for (const std::string& nonsense : {std::string(), std::string("\x09"), std::string(50, '\xff'),
                                      std::string("\x01\x01\x00\x00\x00k\xff\xff\xff\xff", 10)}) {
    Socket socket = proved();
    ASSERT_TRUE(send_frame(socket, base::bytes_of(std::span<const char>(nonsense)), later()));
    EXPECT_TRUE(refused(socket));
  }
  expect_works();
}

TEST_F(ProvedStrangerTest, AClientOfAnotherPurposeIsRefused) {
  Socket socket = stranger();
  transport::Hello hello;
  hello.purpose = transport::kPurposeLink;
  EXPECT_EQ(transport::handshake_as_client(socket, hello, "secret", later()).error().code,
            ErrorCode::kMismatch);
  expect_works();
}

TEST_F(ProvedStrangerTest, AClientThatDiesWhileItWaitsIsForgotten) {
  {
    Socket socket = proved();
    base::Writer request;
    request.put(Operation::kGet).put("never").put(std::int64_t{600'000});
    ASSERT_TRUE(send_frame(socket, request.view(), later()));
  }
  expect_works();
}

}  // namespace
}  // namespace gearshift::rendezvous::tcp
