#include <cmath>
#include <limits>

#include "gearshift/kernels/reduce.h"
#include "testing.h"

namespace gearshift::kernels::testing {
namespace {

using base::DType;

class Norm : public EachTarget {};
GEARSHIFT_ON_EACH_TARGET(Norm);

TEST_P(Norm, MatchesALongDoubleSum) {
  std::mt19937_64 random(7);
  for (const DType dtype : kFloats) {
    for (const std::size_t count : kCounts) {
      for (const std::size_t misalignment : {0, 1, 3, 6}) {
        Slice data(dtype, count, misalignment);
        data.fill_normal(random, 3);
        long double expected = 0;
        for (std::size_t i = 0; i < count; ++i) {
          expected += static_cast<long double>(data.real(i)) * data.real(i);
        }
        const NormPart part = norm_part(dtype, data.view());
        EXPECT_NEAR(part.sum_of_squares, static_cast<double>(expected),
                    1e-13 * static_cast<double>(expected));
        EXPECT_TRUE(part.all_finite);
      }
    }
  }
}

TEST_P(Norm, HasTheSameBitsOnEveryTarget) {
  std::mt19937_64 random(11);
  for (const DType dtype : kFloats) {
    Slice data(dtype, 10007, 1);
    data.fill_normal(random);
    const double here = norm_part(dtype, data.view()).sum_of_squares;
    use(HWY_STATIC_TARGET);
    EXPECT_EQ(norm_part(dtype, data.view()).sum_of_squares, here);
    use(GetParam());
  }
}

TEST_P(Norm, FindsOneNonFiniteElementAnywhere) {
  const double bad[] = {std::numeric_limits<double>::infinity(),
                        -std::numeric_limits<double>::infinity(),
                        std::numeric_limits<double>::quiet_NaN()};
  for (const DType dtype : kFloats) {
    for (const std::size_t count : {1, 7, 16, 40, 1000}) {
      for (const std::size_t where : {std::size_t{0}, count / 2, count - 1}) {
        for (const double value : bad) {
          Slice data(dtype, count, 1);
          for (std::size_t i = 0; i < count; ++i) data.set_real(i, 0.5);
          data.set_real(where, value);
          const NormPart part = norm_part(dtype, data.view());
          EXPECT_FALSE(part.all_finite) << base::to_string(dtype) << " " << count;
          EXPECT_EQ(std::isnan(part.sum_of_squares), std::isnan(value));
        }
      }
    }
  }
}

TEST_P(Norm, AnOverflowOfTheSumIsNotANonFiniteElement) {
  Slice wide(DType::kF64, 3), narrow(DType::kF32, 3);
  for (std::size_t i = 0; i < 3; ++i) {
    wide.set_real(i, 1e200);
    narrow.set_real(i, std::numeric_limits<float>::max());
  }
  EXPECT_TRUE(norm_part(DType::kF64, wide.view()).all_finite);
  EXPECT_TRUE(std::isinf(norm_part(DType::kF64, wide.view()).sum_of_squares));
  EXPECT_TRUE(norm_part(DType::kF32, narrow.view()).all_finite);
  EXPECT_TRUE(std::isfinite(norm_part(DType::kF32, narrow.view()).sum_of_squares));
}

TEST_P(Norm, OfPhantomIsThatOfNothing) {
  const NormPart part =
      norm_part(DType::kF32, base::ConstBytes(static_cast<std::byte*>(nullptr), 400));
  EXPECT_EQ(part.sum_of_squares, 0);
  EXPECT_TRUE(part.all_finite);
}

}  // namespace
}  // namespace gearshift::kernels::testing
