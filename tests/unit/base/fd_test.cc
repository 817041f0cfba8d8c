#include "gearshift/base/fd.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <optional>
#include <type_traits>
#include <utility>

#include "support/in_child.h"

namespace gearshift::base {
namespace {

/// A file that is neither /dev/null nor closed; the caller's.
int open_zeros() { return ::open("/dev/zero", O_RDONLY | O_CLOEXEC); }

/// Whether a number stands for such a file.
bool is_open(int number) {
  struct stat here {};
  struct stat zeros {};
  return ::fstat(number, &here) == 0 && ::stat("/dev/zero", &zeros) == 0 &&
         here.st_rdev == zeros.st_rdev;
}

bool is_open_in_child(int number) {
  return gearshift::testing::in_child([number] { return is_open(number) ? 1 : 0; }) == 1;
}

static_assert(!std::is_copy_constructible_v<Fd> && !std::is_copy_assignable_v<Fd>);
static_assert(std::is_nothrow_move_constructible_v<Fd> && std::is_nothrow_move_assignable_v<Fd>);

TEST(Fd, ClosesWhatItOwns) {
  std::optional<Fd> fd(open_zeros());
  const int number = fd->get();
  EXPECT_TRUE(*fd);
  EXPECT_TRUE(is_open(number));
  fd.reset();
  EXPECT_FALSE(is_open(number));
}

TEST(Fd, ClosesItAtOnceWhenAskedTo) {
  Fd fd(open_zeros());
  const int number = fd.get();
  fd.reset();
  EXPECT_FALSE(fd);
  EXPECT_EQ(fd.get(), -1);
  EXPECT_FALSE(is_open(number));
}

TEST(Fd, MayOwnNothing) {
  for (const int none : {-1, -7}) EXPECT_FALSE(Fd(none));
  Fd fd;
  EXPECT_FALSE(fd);
  EXPECT_EQ(fd.get(), -1);
  fd.reset();
  const Fd moved(std::move(fd));
  EXPECT_FALSE(moved);
}

TEST(Fd, MovesAndLeavesNothingBehind) {
  Fd first(open_zeros());
  const int number = first.get();
  Fd second(std::move(first));
  EXPECT_FALSE(first);
  EXPECT_EQ(second.get(), number);

  Fd third(open_zeros());
  const int former = third.get();
  third = std::move(second);
  EXPECT_FALSE(second);
  EXPECT_EQ(third.get(), number);
  EXPECT_TRUE(is_open(number));
  EXPECT_FALSE(is_open(former));
}

TEST(Fd, MayBeMovedToItself) {
  Fd fd(open_zeros());
  const int number = fd.get();
  Fd& same = fd;
  fd = std::move(same);
  EXPECT_EQ(fd.get(), number);
  EXPECT_TRUE(is_open(number));
}

TEST(Fd, ClosesOnce) {
  std::optional<Fd> first(open_zeros());
  const int number = first->get();
  std::optional<Fd> second(std::move(*first));
  second->reset();
  const Fd next(open_zeros());
  ASSERT_EQ(next.get(), number);  // the lowest that is free
  second->reset();
  first.reset();
  second.reset();
  EXPECT_TRUE(is_open(number));
}

TEST(Fd, IsKeptFromChildrenWhoeverOwnsIt) {
  Fd first(open_zeros());
  const int number = first.get();
  EXPECT_FALSE(is_open_in_child(number));
  Fd second(std::move(first));
  EXPECT_FALSE(is_open_in_child(number));
  Fd third;
  third = std::move(second);
  EXPECT_FALSE(is_open_in_child(number));
  EXPECT_TRUE(is_open(number));
}

TEST(Fd, IsGivenToChildrenThatShallInheritIt) {
  Fd first = Fd::inherited(open_zeros());
  const int number = first.get();
  EXPECT_TRUE(is_open_in_child(number));
  Fd second;
  second = std::move(first);
  EXPECT_TRUE(is_open_in_child(number));
  second.reset();
  EXPECT_FALSE(is_open(number));
}

TEST(Fd, KeepsNothingFromChildrenThatComesAfterIt) {
  const auto next = [](int number) {
    const int other = open_zeros();
    EXPECT_EQ(other, number);  // the lowest that is free
    const bool given = is_open_in_child(other);
    ::close(other);
    return given;
  };
  Fd fd(open_zeros());
  const int number = fd.get();
  fd.reset();
  EXPECT_TRUE(next(number));
  fd = Fd(open_zeros());
  fd = Fd();
  EXPECT_TRUE(next(number));
  { const Fd scoped(open_zeros()); }
  EXPECT_TRUE(next(number));
}

}  // namespace
}  // namespace gearshift::base
