#include "base/forks.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>

#include "support/in_child.h"

namespace gearshift::base {
namespace {

using gearshift::testing::in_child;

int is_pipe(int descriptor) {
  struct stat status {};
  return ::fstat(descriptor, &status) == 0 && S_ISFIFO(status.st_mode) ? 1 : 0;
}

class ForksTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_EQ(::pipe2(ends_.data(), O_CLOEXEC), 0); }
  void TearDown() override {
    for (const int end : ends_) {
      give_to_children(end);
      ::close(end);
    }
  }

  /// Which ends are pipes in a child, as a number of two bits.
  int pipes_in_child() const {
    return in_child([this] { return is_pipe(ends_[0]) + 2 * is_pipe(ends_[1]); });
  }

  std::array<int, 2> ends_{};
};

TEST_F(ForksTest, ChildrenGetOnlyWhatIsNotKept) {
  keep_from_children(ends_[0]);
  EXPECT_EQ(pipes_in_child(), 2);
  EXPECT_EQ(is_pipe(ends_[0]), 1);
  give_to_children(ends_[0]);
  EXPECT_EQ(pipes_in_child(), 3);
}

TEST_F(ForksTest, WhatAChildOpensInItsPlaceIsTheChildsOwn) {
  keep_from_children(ends_[0]);
  const auto reopen = [this] {
    ::dup2(ends_[1], ends_[0]);
    return pipes_in_child();
  };
  EXPECT_EQ(in_child(reopen), 3);
}

TEST_F(ForksTest, NumbersThatNoDescriptorHasAreIgnored) {
  for (const int number : {-1, 1 << 20}) {
    keep_from_children(number);
    EXPECT_EQ(pipes_in_child(), 3);
    give_to_children(number);
  }
}

}  // namespace
}  // namespace gearshift::base
