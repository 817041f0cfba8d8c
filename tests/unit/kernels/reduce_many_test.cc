#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "gearshift/kernels/reduce.h"
#include "testing.h"

namespace gearshift::kernels::testing {
namespace {

using base::DType;
using base::ReduceOp;

/// Half a unit in the last place of 1.
double unit(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return std::ldexp(1.0, -53);
    case DType::kF32:
      return std::ldexp(1.0, -24);
    case DType::kF16:
      return std::ldexp(1.0, -11);
    default:
      return std::ldexp(1.0, -8);
  }
}

class ReduceMany : public EachTarget {
 protected:
  std::vector<Slice> make(DType dtype, std::size_t arrays, std::size_t count, bool reals) {
    std::vector<Slice> made;
    for (std::size_t k = 0; k < arrays; ++k) {
      made.emplace_back(dtype, count, (k * 5) % 9);
      if (reals) {
        made.back().fill_normal(random_);
      } else {
        made.back().fill_bits(random_);
      }
    }
    return made;
  }
  /// All sources are destinations, too: what an all-reduce in place does.
  static void in_place(DType dtype, ReduceOp op, std::vector<Slice>& arrays,
                       std::span<const double> factors = {}, double scale = 1) {
    std::vector<const std::byte*> from;
    std::vector<std::byte*> to;
    for (Slice& array : arrays) {
      from.push_back(array.view().data());
      to.push_back(array.view().data());
    }
    reduce_many(dtype, op, {from, to, arrays[0].view().size(), factors, scale});
  }
  std::mt19937_64 random_{7};
};

TEST_P(ReduceMany, EqualsOneByOneForExactTypes) {
  for (const DType dtype : {DType::kI8, DType::kU8, DType::kI32, DType::kI64, DType::kF32}) {
    for (const ReduceOp op : kOps) {
      for (const std::size_t arrays : {1, 2, 3, 4, 5}) {
        for (const std::size_t count : {0, 1, 7, 63, 1000, 5003}) {
          std::vector<Slice> data = make(dtype, arrays, count, dtype == DType::kF32);
          Slice expected(data[0]);
          for (std::size_t k = 1; k < arrays; ++k) {
            reduce(dtype, op, expected.view(), data[k].view());
          }
          in_place(dtype, op, data);
          for (const Slice& result : data) {
            ASSERT_TRUE(same_bytes(result, expected))
                << base::to_string(dtype) << " " << base::to_string(op) << " " << arrays << " x "
                << count;
          }
        }
      }
    }
  }
}

TEST_P(ReduceMany, SumsAreWeightedScaledAndRoundedOnce) {
  const std::vector<double> all_factors{0.25, 0, 3, 1.0 / 3, -2};
  constexpr double kScale = 0.7;
  for (const DType dtype : kFloats) {
    for (const std::size_t arrays : {2, 3, 4, 5}) {
      const std::span factors = std::span(all_factors).first(arrays);
      for (const std::size_t count : kCounts) {
        std::vector<Slice> data = make(dtype, arrays, count, true);
        const std::vector<Slice> before = data;
        in_place(dtype, ReduceOp::kSum, data, factors, kScale);
        for (std::size_t i = 0; i < count; ++i) {
          long double exact = 0, magnitude = 0;
          for (std::size_t k = 0; k < factors.size(); ++k) {
            exact += static_cast<long double>(before[k].real(i)) * factors[k];
            magnitude += std::abs(static_cast<long double>(before[k].real(i)) * factors[k]);
          }
          // In the type of computation a rounding per operation, in that of memory a single one.
          const double inner = dtype == DType::kF64 ? unit(DType::kF64) : unit(DType::kF32);
          const auto bound = static_cast<double>(10 * inner * magnitude * kScale +
                                                 1.01 * unit(dtype) * std::abs(exact) * kScale) +
                             (dtype == DType::kF16 ? std::ldexp(1.0, -25) : 0);
          ASSERT_NEAR(data[0].real(i), static_cast<double>(exact) * kScale, bound)
              << base::to_string(dtype) << " " << i;
        }
        for (const Slice& result : data) ASSERT_TRUE(same_bytes(result, data[0]));
      }
    }
  }
}

TEST_P(ReduceMany, ScaleAloneEndsAMean) {
  std::vector<Slice> data = make(DType::kF64, 3, 1001, true);
  Slice expected(data[0]);
  reduce(DType::kF64, ReduceOp::kSum, expected.view(), data[1].view());
  reduce(DType::kF64, ReduceOp::kSum, expected.view(), data[2].view());
  divide(DType::kF64, expected.view(), 3);
  in_place(DType::kF64, ReduceOp::kMean, data, {}, 1.0 / 3);
  for (const Slice& result : data) EXPECT_TRUE(same_bytes(result, expected));
}

TEST_P(ReduceMany, AFloat16SumMayPassThroughLargeValues) {
  std::vector<Slice> data = make(DType::kF16, 3, 9, true);
  for (std::size_t i = 0; i < 9; ++i) {
    data[0].set_real(i, 60000);
    data[1].set_real(i, 60000);
    data[2].set_real(i, -60000);
  }
  in_place(DType::kF16, ReduceOp::kSum, data);
  for (std::size_t i = 0; i < 9; ++i) EXPECT_EQ(data[1].real(i), data[0].real(i));
  for (std::size_t i = 0; i < 9; ++i) EXPECT_NEAR(data[0].real(i), 60000, 32);
}

TEST_P(ReduceMany, ACutChangesNothing) {
  const std::vector<double> all_factors{0.5, 0.3, 0.2, 0.1};
  for (const DType dtype : kFloats) {
    for (const std::size_t arrays : {2, 3, 4}) {
      std::vector<Slice> whole = make(dtype, arrays, 777, true);
      std::vector<Slice> cut = whole;
      const std::span factors = std::span(all_factors).first(arrays);
      in_place(dtype, ReduceOp::kSum, whole, factors);
      for (const auto& [begin, end] :
           {std::pair<std::size_t, std::size_t>{0, 5}, {5, 500}, {500, 777}}) {
        std::vector<const std::byte*> from;
        std::vector<std::byte*> to;
        for (Slice& array : cut) from.push_back(array.part(begin, end).data());
        for (Slice& array : cut) to.push_back(array.part(begin, end).data());
        reduce_many(dtype, ReduceOp::kSum,
                    {from, to, (end - begin) * base::size_of(dtype), factors, 1});
      }
      for (std::size_t k = 0; k < arrays; ++k) EXPECT_TRUE(same_bytes(whole[k], cut[k]));
    }
  }
}

/// Sums of 16-bit floats, against the scalar conversions: every bit.
class HalfSums : public ReduceMany {
 protected:
  static float widened(const Slice& slice, std::size_t i) {
    return static_cast<float>(slice.real(i));
  }
  /// What the elements i sum up to; `nans` of them are NaN.
  static std::uint16_t expected(const std::vector<Slice>& from, std::size_t i,
                                std::span<const double> factors, double scale, int& nans) {
    float sum = 0;
    nans = 0;
    for (std::size_t k = 0; k < from.size(); ++k) {
      float term = widened(from[k], i);
      nans += std::isnan(term) ? 1 : 0;
      if (!factors.empty()) term *= static_cast<float>(factors[k]);
      sum = k == 0 ? term : sum + term;
    }
    if (!factors.empty() || scale != 1) sum *= static_cast<float>(scale);
    return from[0].dtype() == DType::kF16 ? f16_from_float(sum) : bf16_from_float(sum);
  }
  /// Sums all of `from` into `destinations` arrays: the first ones of `from`, and others.
  static void check(const std::vector<Slice>& from, std::size_t destinations,
                    std::span<const double> factors = {}, double scale = 1) {
    const std::size_t count = from[0].count();
    std::vector<Slice> data = from;
    while (data.size() < destinations) data.emplace_back(from[0].dtype(), count, data.size());
    std::vector<const std::byte*> sources;
    std::vector<std::byte*> to;
    for (std::size_t k = 0; k < from.size(); ++k) sources.push_back(data[k].view().data());
    for (std::size_t k = 0; k < destinations; ++k) to.push_back(data[k].view().data());
    reduce_many(from[0].dtype(), ReduceOp::kSum,
                {sources, to, data[0].view().size(), factors, scale});
    for (std::size_t i = 0; i < count; ++i) {
      int nans = 0;
      const auto sum = expected(from, i, factors, scale, nans);
      // Which of several NaNs is the result may depend on the order of operands.
      if (nans > 1) {
        ASSERT_TRUE(std::isnan(data[0].real(i))) << i;
      } else {
        ASSERT_EQ(data[0].get<std::uint16_t>(i), sum) << i << " of " << count;
      }
    }
    for (std::size_t k = 1; k < destinations; ++k) ASSERT_TRUE(same_bytes(data[k], data[0]));
  }
};

TEST_P(HalfSums, OfEveryValueHaveTheBitsOfTheScalarConversions) {
  constexpr std::size_t kAll = 0x10000;
  const std::vector<double> factors{0.3, 1.7, -2, 1e-4};
  for (const DType dtype : kHalves) {
    for (const std::size_t sources : {1, 2, 3, 4}) {
      std::vector<Slice> from = make(dtype, sources, kAll, false);
      for (std::size_t i = 0; i < kAll; ++i) from[0].set(i, static_cast<std::uint16_t>(i));
      for (const std::size_t destinations : {1, 2, 3}) {
        check(from, destinations);
        check(from, destinations, {}, 1.0 / 3);
        check(from, destinations, std::span(factors).first(sources), 0.7);
      }
    }
  }
}

// Neighbouring magnitudes, so that many sums are halfway between two values, or subnormal.
TEST_P(HalfSums, RoundTiesAndSubnormals) {
  constexpr std::size_t kAll = 0x10000;
  for (const DType dtype : kHalves) {
    const int infinity = dtype == DType::kF16 ? 0x7c00 : 0x7f80;
    const int binade = dtype == DType::kF16 ? 0x400 : 0x80;
    for (const int distance : {0, 1, 2, 7, 8, 9}) {
      std::vector<Slice> from = make(dtype, 2, kAll, false);
      for (std::size_t i = 0; i < kAll; ++i) {
        const int shifted = std::max(0, static_cast<int>(i & 0x7fff) - distance * binade);
        const auto sign = static_cast<int>(random_() & 0x8000);
        from[0].set(i, static_cast<std::uint16_t>(i));
        from[1].set(i,
                    static_cast<std::uint16_t>(std::min(shifted | (i % 7 == 0), infinity) | sign));
      }
      check(from, 2);
      check(from, 1, {}, 0.5);
      // Powers of two, which do not round but where a result is subnormal or a sum too large.
      for (const double factor : {0.5, 4.0, 0x1p-11, 0x1p-12, 0x1p11}) {
        const std::vector<double> factors{factor, factor};
        check(from, 2, factors);
        check(from, 1, factors, 0.25);
      }
      check(from, 2, std::vector<double>{0.5, 0.25});
    }
  }
}

// Sums that a tiny term brings to one side of a tie between the smallest normal number and the one
// below it. Each alone among ordinary ones, for vectors may be summed otherwise with others.
TEST_P(HalfSums, RoundOnceAtTheSmallestNormal) {
  constexpr std::size_t kCount = 70;
  for (int exponent = 1; exponent <= 11; ++exponent) {
    const double factor = std::ldexp(1.0, -exponent);
    const std::vector<double> factors{factor, factor};
    const int tie = (exponent + 1) * 0x400 - 1;  // times `factor`
    for (const int large : {tie - 1, tie, tie + 1}) {
      for (const int tiny : {0x1, 0x3, 0x1ff}) {
        for (const int signs : {0, 1, 2, 3}) {
          std::vector<Slice> from(2, Slice(DType::kF16, kCount, 1));
          for (std::size_t i = 0; i < kCount; ++i) from[0].set_real(i, 1);
          for (std::size_t i = 0; i < kCount; ++i) from[1].set_real(i, 1);
          const auto at = static_cast<std::size_t>(exponent * 6 + signs);
          from[0].set(at, static_cast<std::uint16_t>(large | (signs % 2) << 15));
          from[1].set(at, static_cast<std::uint16_t>(tiny | (signs / 2) << 15));
          check(from, 2, factors);
          check(from, 1, {}, factor);
        }
      }
    }
  }
}

TEST_P(HalfSums, OfEveryCountAndAlignment) {
  for (const DType dtype : kHalves) {
    for (std::size_t count = 0; count < 200; ++count) {
      std::vector<Slice> from = make(dtype, 2 + count % 2, count, true);
      for (const std::size_t destinations : {1, 2, 4}) check(from, destinations);
    }
  }
}

TEST_P(HalfSums, KeepANanInItsElement) {
  constexpr std::size_t kCount = 150;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const DType dtype : kHalves) {
    // Quiet ones, and a signalling one that rounding must not carry into infinity.
    const std::uint16_t exponent = dtype == DType::kF16 ? 0x7c00 : 0x7f80;
    for (const int payload : {0x1, 0x7f, 0x8001}) {
      for (std::size_t at = 0; at < kCount; ++at) {
        for (const std::size_t array : {0, 1}) {
          std::vector<Slice> from = make(dtype, 2, kCount, true);
          from[array].set(at, static_cast<std::uint16_t>(exponent | payload));
          check(from, 2);
        }
      }
    }
    const std::vector<Slice> from = make(dtype, 2, kCount, true);
    check(from, 2, {}, nan);
    check(from, 2, std::vector<double>{1, nan});
    check(from, 2, std::vector<double>{-nan, 1});
  }
}

GEARSHIFT_ON_EACH_TARGET(ReduceMany);
GEARSHIFT_ON_EACH_TARGET(HalfSums);

}  // namespace
}  // namespace gearshift::kernels::testing
