#include "gearshift/kernels/half.h"

#include <bit>
#include <cmath>
#include <limits>

#include "testing.h"

namespace gearshift::kernels::testing {
namespace {

using base::DType;

// The value of a bit pattern, from the definition of the format.
double value_of(std::uint16_t bits, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = (bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const int mantissa = bits & ((1 << mantissa_bits) - 1);
  double magnitude;
  if (exponent == (1 << exponent_bits) - 1) {
    magnitude = mantissa == 0 ? std::numeric_limits<double>::infinity()
                              : std::numeric_limits<double>::quiet_NaN();
  } else if (exponent == 0) {
    magnitude = std::ldexp(mantissa, 1 - bias - mantissa_bits);
  } else {
    magnitude = std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
  }
  return bits & 0x8000 ? -magnitude : magnitude;
}

double value_of(DType dtype, std::uint16_t bits) {
  return dtype == DType::kF16 ? value_of(bits, 5, 10) : value_of(bits, 8, 7);
}
std::uint16_t from_float(DType dtype, float value) {
  return dtype == DType::kF16 ? f16_from_float(value) : bf16_from_float(value);
}
float to_float(DType dtype, std::uint16_t bits) {
  return dtype == DType::kF16 ? f16_to_float(bits) : bf16_to_float(bits);
}

TEST(HalfScalar, WidensEveryValue) {
  for (const DType dtype : kHalves) {
    for (int bits = 0; bits < 0x10000; ++bits) {
      const auto half = static_cast<std::uint16_t>(bits);
      const double expected = value_of(dtype, half);
      const float actual = to_float(dtype, half);
      ASSERT_TRUE(std::isnan(expected) ? std::isnan(actual) : actual == expected) << bits;
      ASSERT_EQ(std::signbit(actual), (bits & 0x8000) != 0) << bits;
    }
  }
}

// All that rounding can get wrong happens at, just below and just above each value and each
// midpoint between neighbours.
TEST(HalfScalar, RoundsToNearestEvenAroundEveryValueAndMidpoint) {
  for (const DType dtype : kHalves) {
    const int infinity = dtype == DType::kF16 ? 0x7c00 : 0x7f80;
    for (int bits = 0; bits < infinity; ++bits) {
      const auto lower = static_cast<std::uint16_t>(bits);
      const auto upper = static_cast<std::uint16_t>(bits + 1);
      const double low = value_of(dtype, lower);
      // Beyond the largest value the next step of the grid would be where infinity's pattern is.
      const double high = upper == infinity
                              ? 2 * low - value_of(dtype, static_cast<std::uint16_t>(bits - 1))
                              : value_of(dtype, upper);
      const auto middle = static_cast<float>((low + high) / 2);
      const float inf = std::numeric_limits<float>::infinity();
      for (const int sign : {1, -1}) {
        const auto pattern = [&](std::uint16_t half) {
          return static_cast<std::uint16_t>(half | (sign < 0 ? 0x8000 : 0));
        };
        const auto narrowed = [&](float value) {
          return from_float(dtype, std::copysign(value, static_cast<float>(sign)));
        };
        ASSERT_EQ(narrowed(static_cast<float>(low)), pattern(lower)) << bits;
        ASSERT_EQ(narrowed(middle), pattern(bits % 2 == 0 ? lower : upper)) << bits;
        if (middle > 0) {
          ASSERT_EQ(narrowed(std::nextafter(middle, 0.0f)), pattern(lower)) << bits;
          ASSERT_EQ(narrowed(std::nextafter(middle, inf)), pattern(upper)) << bits;
        }
      }
    }
  }
}

TEST(HalfScalar, KeepsInfinityAndNan) {
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const DType dtype : kHalves) {
    EXPECT_EQ(to_float(dtype, from_float(dtype, inf)), inf);
    EXPECT_EQ(to_float(dtype, from_float(dtype, -inf)), -inf);
    EXPECT_EQ(to_float(dtype, from_float(dtype, std::numeric_limits<float>::max())), inf);
    EXPECT_TRUE(std::isnan(to_float(dtype, from_float(dtype, nan))));
    // The payload's upper bits are all 0: truncation alone would make it infinity.
    EXPECT_TRUE(std::isnan(to_float(dtype, from_float(dtype, std::bit_cast<float>(0x7f800001u)))));
  }
}

class Half : public EachTarget {};
GEARSHIFT_ON_EACH_TARGET(Half);

TEST_P(Half, WidensSlicesLikeTheScalarConversion) {
  constexpr std::size_t kAll = 0x10000;
  for (const DType dtype : kHalves) {
    Slice halves(dtype, kAll, 1), floats(DType::kF32, kAll, 3);
    for (std::size_t i = 0; i < kAll; ++i) halves.set(i, static_cast<std::uint16_t>(i));
    widen(dtype, floats.view(), halves.view());
    for (std::size_t i = 0; i < kAll; ++i) {
      const float expected = to_float(dtype, static_cast<std::uint16_t>(i));
      ASSERT_EQ(floats.get<std::uint32_t>(i), std::bit_cast<std::uint32_t>(expected)) << i;
    }
  }
}

TEST_P(Half, NarrowsSlicesLikeTheScalarConversion) {
  // Every upper half of a float32 pattern, with lower halves at and around every rounding border.
  constexpr std::uint32_t kLow[] = {0x0000, 0x0001, 0x0fff, 0x1000, 0x1001, 0x2000, 0x3000,
                                    0x7fff, 0x8000, 0x8001, 0xefff, 0xf000, 0xf001, 0xffff};
  constexpr std::size_t kCount = 0x10000 * std::size(kLow);
  for (const DType dtype : kHalves) {
    Slice floats(DType::kF32, kCount, 1), halves(dtype, kCount, 1);
    for (std::size_t i = 0; i < kCount; ++i) {
      const auto high = static_cast<std::uint32_t>(i / std::size(kLow)) << 16;
      floats.set(i, high | kLow[i % std::size(kLow)]);
    }
    narrow(dtype, halves.view(), floats.view());
    for (std::size_t i = 0; i < kCount; ++i) {
      const auto bits = floats.get<std::uint32_t>(i);
      ASSERT_EQ(halves.get<std::uint16_t>(i), from_float(dtype, std::bit_cast<float>(bits)))
          << std::hex << bits;
    }
  }
}

TEST_P(Half, MultipliesInFloat32BeforeItNarrows) {
  std::mt19937_64 random(7);
  for (const DType dtype : kHalves) {
    for (const double factor : {1.0 / 3, -0.25, 1.0, 0.0}) {
      for (const std::size_t count : kCounts) {
        Slice floats(DType::kF32, count, 1), halves(dtype, count, 1);
        floats.fill_normal(random);
        narrow(dtype, halves.view(), floats.view(), factor);
        for (std::size_t i = 0; i < count; ++i) {
          const float scaled = floats.get<float>(i) * static_cast<float>(factor);
          ASSERT_EQ(halves.get<std::uint16_t>(i), from_float(dtype, scaled)) << i << " " << factor;
        }
      }
    }
  }
}

TEST_P(Half, ConvertsEveryCount) {
  std::mt19937_64 random(5);
  for (const DType dtype : kHalves) {
    for (const std::size_t count : kCounts) {
      Slice halves(dtype, count, 1), floats(DType::kF32, count, 1), back(dtype, count, 1);
      halves.fill_normal(random);
      widen(dtype, floats.view(), halves.view());
      narrow(dtype, back.view(), floats.view());
      EXPECT_TRUE(same_bytes(halves, back));
    }
  }
}

TEST_P(Half, SkipsPhantoms) {
  Slice halves(DType::kF16, 5), floats(DType::kF32, 5);
  halves.set_real(0, 1.5);
  floats.set_real(0, 2.5);
  widen(DType::kF16, base::Bytes(static_cast<std::byte*>(nullptr), 20), halves.view());
  widen(DType::kF16, floats.view(), base::ConstBytes(static_cast<std::byte*>(nullptr), 10));
  narrow(DType::kF16, halves.view(), base::ConstBytes(static_cast<std::byte*>(nullptr), 20));
  EXPECT_EQ(halves.real(0), 1.5);
  EXPECT_EQ(floats.real(0), 2.5);
}

}  // namespace
}  // namespace gearshift::kernels::testing
