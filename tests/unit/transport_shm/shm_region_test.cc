#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>

#include "gearshift/transport/shared_region.h"
#include "support/in_child.h"

namespace gearshift::transport {
namespace {

using base::ErrorCode;

TEST(SharedRegion, IsZeroedRoundedUpAndSharedByTwoMappings) {
  auto region = SharedRegion::create(5000);
  ASSERT_TRUE(region.ok()) << region.error().to_string();
  EXPECT_EQ((*region)->size(), 8192U);
  const auto view = (*region)->view();
  EXPECT_TRUE(std::all_of(view.begin(), view.end(), [](std::byte b) { return b == std::byte{}; }));

  auto mapped = SharedRegion::map(base::Fd(::dup((*region)->fd())), 8192);
  ASSERT_TRUE(mapped.ok()) << mapped.error().to_string();
  view[4999] = std::byte{42};
  EXPECT_EQ((*mapped)->view()[4999], std::byte{42});
  region->reset();
  EXPECT_EQ((*mapped)->view()[4999], std::byte{42}) << "lives as long as one mapping";
}

TEST(SharedRegion, AMappingHoldsNoDescriptor) {
  auto region = SharedRegion::create(4096);
  ASSERT_TRUE(region.ok());
  const int passed = ::dup((*region)->fd());
  auto mapped = SharedRegion::map(base::Fd(passed), 4096);
  ASSERT_TRUE(mapped.ok());
  EXPECT_EQ(::fcntl(passed, F_GETFD), -1);
  EXPECT_EQ((*mapped)->fd(), -1);
}

TEST(SharedRegion, AForkedChildMayPassItOn) {
  auto region = SharedRegion::create(4096);
  ASSERT_TRUE(region.ok());
  (*region)->view()[0] = std::byte{42};
  const auto map_again = [&region] {
    auto mapped = SharedRegion::map(base::Fd(::dup((*region)->fd())), 4096);
    return mapped.ok() ? std::to_integer<int>((*mapped)->view()[0]) : 0;
  };
  EXPECT_EQ(gearshift::testing::in_child(map_again), 42);
}

TEST(SharedRegion, ALimitOfFilesIsNamed) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = ::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{4096, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const auto region = SharedRegion::create(8192);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  ::signal(SIGXFSZ, handler);
  ASSERT_FALSE(region.ok());
  EXPECT_NE(region.error().message.find("ulimit -f"), std::string::npos) << region.error().message;
}

TEST(SharedRegion, CannotShrinkUnderItsReaders) {
  auto region = SharedRegion::create(1);
  ASSERT_TRUE(region.ok());
  EXPECT_NE(::ftruncate((*region)->fd(), 0), 0);
}

TEST(SharedRegion, RefusesWhatIsNoRegionAndClosesIt) {
  auto refused_and_closed = [](int fd, std::size_t size) {
    auto mapped = SharedRegion::map(base::Fd(fd), size);
    return !mapped.ok() && ::fcntl(fd, F_GETFD) == -1;
  };
  auto region = SharedRegion::create(4096);
  ASSERT_TRUE(region.ok());
  EXPECT_TRUE(refused_and_closed(::dup((*region)->fd()), 8192)) << "larger than it is";
  EXPECT_TRUE(refused_and_closed(::dup((*region)->fd()), 0));
  EXPECT_TRUE(refused_and_closed(::open("/dev/null", O_RDWR | O_CLOEXEC), 4096));
  const int unsealed = ::memfd_create("unsealed", MFD_CLOEXEC);
  ASSERT_EQ(::ftruncate(unsealed, 4096), 0);
  EXPECT_TRUE(refused_and_closed(unsealed, 4096)) << "its owner could shrink it";
  EXPECT_FALSE(SharedRegion::map({}, 4096).ok());
  EXPECT_FALSE(SharedRegion::create(SIZE_MAX).ok());
}

}  // namespace
}  // namespace gearshift::transport
