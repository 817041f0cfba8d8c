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

constexpr ReduceOp kOps[] = {ReduceOp::kSum, ReduceOp::kMean, ReduceOp::kMin, ReduceOp::kMax,
                             ReduceOp::kProduct};

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
      for (const std::size_t arrays : {1, 2, 3, 5}) {
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
  const std::vector<double> factors{0.25, 0, 3, 1.0 / 3};
  constexpr double kScale = 0.7;
  for (const DType dtype : kFloats) {
    for (const std::size_t count : kCounts) {
      std::vector<Slice> data = make(dtype, factors.size(), count, true);
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
  for (const DType dtype : kFloats) {
    std::vector<Slice> whole = make(dtype, 3, 777, true);
    std::vector<Slice> cut = whole;
    const std::vector<double> factors{0.5, 0.3, 0.2};
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
    for (std::size_t k = 0; k < 3; ++k) EXPECT_TRUE(same_bytes(whole[k], cut[k]));
  }
}

GEARSHIFT_ON_EACH_TARGET(ReduceMany);

}  // namespace
}  // namespace gearshift::kernels::testing
