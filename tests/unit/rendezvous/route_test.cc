#include <gtest/gtest.h>

#include "gearshift/rendezvous/tcp/factory.h"

namespace gearshift::rendezvous::tcp {
namespace {

using base::ErrorCode;

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
