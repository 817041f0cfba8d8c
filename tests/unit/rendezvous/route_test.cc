#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "gearshift/rendezvous/tcp/factory.h"

namespace gearshift::rendezvous::tcp {
namespace {

using base::ErrorCode;

TEST(Route, TowardsLoopbackIsLoopback) {
  EXPECT_EQ(local_address_towards("127.0.0.1", 4711).value(), "127.0.0.1");
  EXPECT_EQ(local_address_towards("127.0.0.1", 0).value(), "127.0.0.1");
}

TEST(Route, UnderstandsIpv6) {
  const auto local = local_address_towards("::1", 4711);
  if (!local) GTEST_SKIP() << "no IPv6 here: " << local.error().message;
  EXPECT_EQ(*local, "::1");
  EXPECT_EQ(local_address_towards("[::1]", 4711).value(), "::1");
}

TEST(Route, UnknownNameIsAnInvalidArgument) {
  const auto local = local_address_towards("no-such-host.invalid", 4711);
  ASSERT_FALSE(local);
  EXPECT_EQ(local.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(local.error().message, ::testing::HasSubstr("no-such-host.invalid"));
}

TEST(Loopback, IsRecognised) {
  EXPECT_TRUE(resolves_to_loopback("localhost").value());
  EXPECT_TRUE(resolves_to_loopback("127.0.1.1").value());
  EXPECT_TRUE(resolves_to_loopback("::1").value());
  EXPECT_TRUE(resolves_to_loopback("::ffff:127.0.0.1").value());
  EXPECT_FALSE(resolves_to_loopback("10.0.0.1").value());
  EXPECT_FALSE(resolves_to_loopback("fe80::1").value());
  EXPECT_EQ(resolves_to_loopback("no-such-host.invalid").error().code, ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace gearshift::rendezvous::tcp
