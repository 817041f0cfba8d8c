#include "gearshift/kernels/target.h"

#include <gtest/gtest.h>
#include <hwy/highway.h>

namespace gearshift::kernels {
namespace {

TEST(Target, IsOneThatThisProcessorHas) {
  const std::string chosen = simd_target();
  bool supported = false;
  for (const std::int64_t bit : hwy::SupportedAndGeneratedTargets()) {
    supported = supported || chosen == hwy::TargetName(bit);
  }
  EXPECT_TRUE(supported) << chosen;
}

}  // namespace
}  // namespace gearshift::kernels
