#include <cmath>
#include <limits>

#include "gearshift/kernels/reduce.h"
#include "testing.h"

namespace gearshift::kernels::testing {
namespace {

using base::DType;

// Relative spacing of the type's values: how far a correctly rounded result may be from exact.
double epsilon_of(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return 0x1p-52;
    case DType::kF32:
      return 0x1p-23;
    case DType::kF16:
      return 0x1p-10;
    default:
      return 0x1p-7;
  }
}

class Scale : public EachTarget {
 protected:
  std::mt19937_64 random_{2};
};
GEARSHIFT_ON_EACH_TARGET(Scale);

TEST_P(Scale, ScalesEveryCountAndAlignment) {
  for (const DType dtype : kFloats) {
    // The factor itself is rounded to the type that is computed in.
    const double factor = dtype == DType::kF64 ? 0.3 : static_cast<double>(0.3f);
    for (const std::size_t count : kCounts) {
      for (std::size_t misalignment = 0; misalignment < base::size_of(dtype); ++misalignment) {
        Slice source(dtype, count, misalignment), copy(dtype, count, 7 - misalignment);
        source.fill_normal(random_);
        scale_copy(dtype, copy.view(), source.view(), 0.3);
        Slice expected(dtype, count);
        for (std::size_t i = 0; i < count; ++i) {
          expected.set_real(i, source.real(i) * factor);
        }
        EXPECT_TRUE(same_bytes(copy, expected)) << base::to_string(dtype) << " " << count;
        scale(dtype, source.view(), 0.3);
        EXPECT_TRUE(same_bytes(source, expected)) << base::to_string(dtype) << " " << count;
      }
    }
  }
}

TEST_P(Scale, AddsScaledOfEveryCountAndAlignment) {
  for (const DType dtype : kFloats) {
    const double factor = dtype == DType::kF64 ? -0.7 : static_cast<double>(-0.7f);
    for (const std::size_t count : kCounts) {
      for (std::size_t misalignment = 0; misalignment < base::size_of(dtype); ++misalignment) {
        Slice sum(dtype, count, misalignment), term(dtype, count, 7 - misalignment);
        sum.fill_normal(random_);
        term.fill_normal(random_);
        const Slice before(sum);
        add_scaled(dtype, sum.view(), term.view(), -0.7);
        for (std::size_t i = 0; i < count; ++i) {
          const double product = factor * term.real(i);
          const double bound = epsilon_of(dtype) * (std::abs(before.real(i)) + std::abs(product));
          ASSERT_NEAR(sum.real(i), before.real(i) + product, bound) << base::to_string(dtype);
        }
      }
    }
  }
}

TEST_P(Scale, DoesNotDependOnWhereASliceBegins) {
  for (const DType dtype : kFloats) {
    Slice whole(dtype, 101), term(dtype, 101);
    whole.fill_normal(random_);
    term.fill_normal(random_);
    Slice cut(whole);
    add_scaled(dtype, whole.view(), term.view(), 0.1);
    add_scaled(dtype, cut.part(0, 13), term.part(0, 13), 0.1);
    add_scaled(dtype, cut.part(13, 101), term.part(13, 101), 0.1);
    EXPECT_TRUE(same_bytes(whole, cut)) << base::to_string(dtype);
  }
}

TEST_P(Scale, DividesFloatsByMultiplyingWithTheReciprocal) {
  for (const DType dtype : kFloats) {
    Slice divided(dtype, 100), scaled(dtype, 100);
    divided.fill_normal(random_);
    scaled = divided;
    divide(dtype, divided.view(), 3);
    scale(dtype, scaled.view(), 1.0 / 3);
    EXPECT_TRUE(same_bytes(divided, scaled));
  }
}

template <typename T>
void expect_truncated_division(DType dtype, std::mt19937_64& random) {
  for (const std::size_t misalignment : {0, 1}) {
    for (const int n : {1, 2, 3, 300}) {
      Slice data(dtype, 1000, misalignment);
      data.fill_bits(random);
      data.set(0, std::numeric_limits<T>::min());
      data.set(1, std::numeric_limits<T>::max());
      const Slice before(data);
      divide(dtype, data.view(), n);
      for (std::size_t i = 0; i < data.count(); ++i) {
        ASSERT_EQ(data.get<T>(i), static_cast<T>(before.get<T>(i) / std::int64_t{n}));
      }
    }
  }
}

TEST_P(Scale, DividesIntegersTowardsZero) {
  expect_truncated_division<std::int8_t>(DType::kI8, random_);
  expect_truncated_division<std::uint8_t>(DType::kU8, random_);
  expect_truncated_division<std::int32_t>(DType::kI32, random_);
  expect_truncated_division<std::int64_t>(DType::kI64, random_);
}

TEST_P(Scale, SkipsPhantoms) {
  Slice data(DType::kF64, 4);
  data.fill_normal(random_);
  const Slice before(data);
  const base::Bytes phantom(static_cast<std::byte*>(nullptr), 32);
  scale(DType::kF64, phantom, 2);
  divide(DType::kI64, phantom, 2);
  scale_copy(DType::kF64, data.view(), phantom, 2);
  add_scaled(DType::kF64, data.view(), phantom, 2);
  add_scaled(DType::kF64, phantom, data.view(), 2);
  EXPECT_TRUE(same_bytes(data, before));
}

}  // namespace
}  // namespace gearshift::kernels::testing
