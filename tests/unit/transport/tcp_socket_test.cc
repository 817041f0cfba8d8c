#include <gtest/gtest.h>
#include <sys/socket.h>

#include "transport/tcp/socket.h"

namespace gearshift::transport::tcp {
namespace {

int option(const Fd& fd, int name) {
  int value = -1;
  socklen_t size = sizeof(value);
  return ::getsockopt(fd.get(), SOL_SOCKET, name, &value, &size) == 0 ? value : -1;
}

#ifndef SO_BUF_LOCK
#define SO_BUF_LOCK 72
#endif

TEST(TcpSocket, AWindowIsLimitedAndFreedAgain) {
  const Fd fd(::socket(AF_INET, SOCK_STREAM, 0));
  if (option(fd, SO_BUF_LOCK) < 0) GTEST_SKIP() << "needs Linux 5.14";
  const int by_itself = option(fd, SO_RCVBUF);
  limit_window(fd, 0);
  EXPECT_EQ(option(fd, SO_RCVBUF), by_itself) << "nothing to free";
  limit_window(fd, 100'000);
  EXPECT_EQ(option(fd, SO_RCVBUF), 200'000) << "the kernel doubles it";
  EXPECT_NE(option(fd, SO_BUF_LOCK), 0);
  limit_window(fd, 1);
  EXPECT_GE(option(fd, SO_RCVBUF), 2 * (16 << 10)) << "room for some packets";
  limit_window(fd, 1 << 30);
  EXPECT_EQ(option(fd, SO_BUF_LOCK), 0) << "more than a process may have: the kernel chooses";
  EXPECT_GT(option(fd, SO_RCVBUF), 200'000);
  limit_window(fd, 100'000);
  limit_window(fd, 0);
  EXPECT_EQ(option(fd, SO_BUF_LOCK), 0);
  EXPECT_GT(option(fd, SO_RCVBUF), 200'000);
}

}  // namespace
}  // namespace gearshift::transport::tcp
