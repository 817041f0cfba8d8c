#pragma once

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <functional>

namespace gearshift::sim::testing {

/// Runs `body` in a child process, since a process can simulate only once. Failed expectations
/// there are printed, and fail this test.
inline void in_child(const std::function<void()>& body) {
  const auto run = [&body] {
    body();
    const auto* result = ::testing::UnitTest::GetInstance()->current_test_info()->result();
    for (int i = 0; i < result->total_part_count(); ++i) {
      std::fprintf(stderr, "%s\n", result->GetTestPartResult(i).message());
    }
    std::_Exit(::testing::Test::HasFailure() ? 1 : 0);
  };
  EXPECT_EXIT(run(), ::testing::ExitedWithCode(0), "");
}

}  // namespace gearshift::sim::testing
