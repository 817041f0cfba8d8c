#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>

#include "gearshift/transport/tcp/factory.h"
#include "transport/tcp/congestion.h"

namespace gearshift::transport::tcp {
namespace {

std::string current(const base::Fd& fd) {
  std::array<char, 17> name{};
  socklen_t size = name.size() - 1;
  ::getsockopt(fd.get(), IPPROTO_TCP, TCP_CONGESTION, name.data(), &size);
  return name.data();
}

class TcpCongestionTest : public ::testing::Test {
 protected:
  void SetUp() override {
    listener = *listen_on("127.0.0.1", 0);
    fd =
        *connect_to(*scheduler, local_address(listener), scheduler->after(std::chrono::seconds(9)));
  }
  std::unique_ptr<base::Scheduler> scheduler = base::make_os_scheduler();
  base::Fd listener, fd;
  const std::string by_system = system_congestion_control();
  static constexpr base::Duration kNearby = std::chrono::microseconds(100);
  const bool bbr = by_system.starts_with("bbr") && check_congestion_control("cubic").ok();
};

TEST_F(TcpCongestionTest, NearPeersGetCubicInsteadOfBbr) {
  choose_congestion_control(fd, "auto", kNearby);
  EXPECT_EQ(current(fd), bbr ? "cubic" : by_system);
  base::Fd accepted;
  while (!accepted) accepted = *accept_from(listener);
  choose_congestion_control(accepted, "auto", kNearby);
  EXPECT_EQ(current(accepted), bbr ? "cubic" : by_system);
}

TEST_F(TcpCongestionTest, DistantPeersGetWhatTheSystemChooses) {
  choose_congestion_control(fd, "auto", std::chrono::milliseconds(20));
  EXPECT_EQ(current(fd), by_system);
}

TEST_F(TcpCongestionTest, SoDoesWhoAsksForIt) {
  choose_congestion_control(fd, "system", round_trip(fd));
  EXPECT_EQ(current(fd), by_system);
}

TEST_F(TcpCongestionTest, RoundTripsAreMeasuredByTheHandshake) {
  base::Duration least = round_trip(fd);
  EXPECT_GT(least, base::Duration::zero());
  // Within a host it is near, though a busy one takes its time over some handshakes.
  for (int i = 0; i < 50 && least > std::chrono::milliseconds(5); ++i) {
    const base::Fd other =
        *connect_to(*scheduler, local_address(listener), scheduler->after(std::chrono::seconds(9)));
    least = std::min(least, round_trip(other));
  }
  EXPECT_LT(least, std::chrono::milliseconds(5));
  EXPECT_EQ(round_trip(base::Fd()), base::Duration::zero());
}

TEST_F(TcpCongestionTest, WhatIsAskedForIsUsed) {
  choose_congestion_control(fd, "reno", round_trip(fd));
  EXPECT_EQ(current(fd), "reno");
}

TEST_F(TcpCongestionTest, WhatTheSystemDoesNotHaveIsAnErrorThatSaysWhatItHas) {
  for (const char* name : {"auto", "system", "reno"}) {
    EXPECT_TRUE(check_congestion_control(name).ok()) << name;
  }
  const auto made = create(*scheduler, std::make_shared<Router>(*scheduler),
                           {base::Rank(0), base::Generation(1), "secret"},
                           {.congestion_control = "carrier-pigeon"});
  ASSERT_FALSE(made.ok());
  EXPECT_EQ(made.error().code, base::ErrorCode::kInvalidArgument);
  EXPECT_NE(made.error().message.find("'carrier-pigeon'"), std::string::npos);
  EXPECT_NE(made.error().message.find("reno"), std::string::npos);
}

}  // namespace
}  // namespace gearshift::transport::tcp
