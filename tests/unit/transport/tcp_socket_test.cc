#include <gtest/gtest.h>
#include <sys/socket.h>

#include "transport/tcp/socket.h"

namespace gearshift::transport::tcp {
namespace {

int option(const base::Fd& fd, int name) {
  int value = -1;
  socklen_t size = sizeof(value);
  return ::getsockopt(fd.get(), SOL_SOCKET, name, &value, &size) == 0 ? value : -1;
}

#ifndef SO_BUF_LOCK
#define SO_BUF_LOCK 72
#endif

TEST(TcpSocket, WhatIsUnderWayIsLimitedAndFreedAgain) {
  const base::Fd fd(::socket(AF_INET, SOCK_STREAM, 0));
  if (option(fd, SO_BUF_LOCK) < 0) GTEST_SKIP() << "needs Linux 5.14";
  const int by_itself = option(fd, SO_SNDBUF);
  const int received = option(fd, SO_RCVBUF);
  limit_outflow(fd, 0);
  EXPECT_EQ(option(fd, SO_SNDBUF), by_itself) << "nothing to free";
  limit_outflow(fd, 100'000);
  EXPECT_EQ(option(fd, SO_SNDBUF), 125'000);
  EXPECT_NE(option(fd, SO_BUF_LOCK), 0);
  limit_outflow(fd, 1);
  EXPECT_GE(option(fd, SO_SNDBUF), 16 << 10) << "room for some packets";
  limit_outflow(fd, 1 << 30);
  EXPECT_EQ(option(fd, SO_BUF_LOCK), 0) << "more than a process may have: the kernel chooses";
  EXPECT_GT(option(fd, SO_SNDBUF), 125'000);
  limit_outflow(fd, 100'000);
  limit_outflow(fd, 0);
  EXPECT_EQ(option(fd, SO_BUF_LOCK), 0);
  EXPECT_GT(option(fd, SO_SNDBUF), 125'000);
  EXPECT_EQ(option(fd, SO_RCVBUF), received) << "what has been offered to the peer stays offered";
}

}  // namespace
}  // namespace gearshift::transport::tcp
