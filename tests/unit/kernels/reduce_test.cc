#include "gearshift/kernels/reduce.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "testing.h"

namespace gearshift::kernels::testing {
namespace {

using base::DType;
using base::ReduceOp;

template <typename T>
T combine_floats(ReduceOp op, T a, T b) {
  if (std::isnan(a) || std::isnan(b)) return std::numeric_limits<T>::quiet_NaN();
  switch (op) {
    case ReduceOp::kMin:
      return std::fmin(a, b);
    case ReduceOp::kMax:
      return std::fmax(a, b);
    case ReduceOp::kProduct:
      return a * b;
    default:
      return a + b;
  }
}

template <typename T>
T combine_integers(ReduceOp op, T a, T b) {
  const auto wide_a = static_cast<std::uint64_t>(a), wide_b = static_cast<std::uint64_t>(b);
  switch (op) {
    case ReduceOp::kMin:
      return std::min(a, b);
    case ReduceOp::kMax:
      return std::max(a, b);
    case ReduceOp::kProduct:
      return static_cast<T>(wide_a * wide_b);
    default:
      return static_cast<T>(wide_a + wide_b);
  }
}

template <typename T>
void expect_integers(ReduceOp op, const Slice& a, const Slice& b, const Slice& result) {
  for (std::size_t i = 0; i < a.count(); ++i) {
    ASSERT_EQ(result.get<T>(i), combine_integers(op, a.get<T>(i), b.get<T>(i)))
        << base::to_string(a.dtype()) << " " << base::to_string(op) << " " << i;
  }
}

void expect_floats(ReduceOp op, const Slice& a, const Slice& b, const Slice& result) {
  Slice rounded(a.dtype(), 1);
  for (std::size_t i = 0; i < a.count(); ++i) {
    // float32 operands are exact in double, and the result is rounded to float32 before 16 bits.
    const double exact = combine_floats(op, a.real(i), b.real(i));
    rounded.set_real(0, exact);
    const bool ok =
        std::isnan(exact) ? std::isnan(result.real(i)) : result.real(i) == rounded.real(0);
    ASSERT_TRUE(ok) << base::to_string(a.dtype()) << " " << base::to_string(op) << " " << i << ": "
                    << a.real(i) << ", " << b.real(i) << " -> " << result.real(i);
  }
}

void expect_combined(ReduceOp op, const Slice& a, const Slice& b, const Slice& result) {
  switch (a.dtype()) {
    case DType::kI8:
      return expect_integers<std::int8_t>(op, a, b, result);
    case DType::kU8:
      return expect_integers<std::uint8_t>(op, a, b, result);
    case DType::kI32:
      return expect_integers<std::int32_t>(op, a, b, result);
    case DType::kI64:
      return expect_integers<std::int64_t>(op, a, b, result);
    default:
      return expect_floats(op, a, b, result);
  }
}

class Reduce : public EachTarget {
 protected:
  // Any bits at all: integers that overflow, floats of every magnitude, subnormals, NaN, infinity.
  void check(DType dtype, std::size_t count, std::size_t misalignment) {
    Slice a(dtype, count, misalignment), b(dtype, count, (misalignment * 3) % 8);
    a.fill_bits(random_);
    b.fill_bits(random_);
    for (const ReduceOp op : kOps) {
      Slice in_place(a), result(dtype, count, (misalignment * 5) % 8);
      reduce(dtype, op, in_place.view(), b.view());
      expect_combined(op, a, b, in_place);
      reduce_into(dtype, op, result.view(), a.view(), b.view());
      EXPECT_TRUE(same_bytes(in_place, result));
    }
  }
  std::mt19937_64 random_{1};
};
GEARSHIFT_ON_EACH_TARGET(Reduce);

TEST_P(Reduce, CombinesFloatsOfEveryCountAndAlignment) {
  for (const DType dtype : kFloats) {
    for (const std::size_t count : kCounts) {
      for (std::size_t misalignment = 0; misalignment < base::size_of(dtype); ++misalignment) {
        check(dtype, count, misalignment);
      }
    }
  }
}

TEST_P(Reduce, CombinesIntegersOfEveryCountAndAlignment) {
  for (const DType dtype : kIntegers) {
    for (const std::size_t count : kCounts) {
      for (std::size_t misalignment = 0; misalignment < base::size_of(dtype); ++misalignment) {
        check(dtype, count, misalignment);
      }
    }
  }
}

TEST_P(Reduce, PropagatesNanFromEitherSide) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const DType dtype : kFloats) {
    for (const ReduceOp op : kOps) {
      Slice a(dtype, 3), b(dtype, 3);
      const double left[] = {nan, 1, nan}, right[] = {1, nan, nan};
      for (std::size_t i = 0; i < 3; ++i) {
        a.set_real(i, left[i]);
        b.set_real(i, right[i]);
      }
      reduce(dtype, op, a.view(), b.view());
      for (std::size_t i = 0; i < 3; ++i) EXPECT_TRUE(std::isnan(a.real(i)));
    }
  }
}

TEST_P(Reduce, AcceptsTheSameViewTwice) {
  Slice a(DType::kF32, 37);
  a.fill_normal(random_);
  const Slice before(a);
  reduce(DType::kF32, ReduceOp::kSum, a.view(), a.view());
  for (std::size_t i = 0; i < a.count(); ++i) EXPECT_EQ(a.real(i), 2 * before.real(i));
}

TEST_P(Reduce, SkipsPhantoms) {
  Slice data(DType::kF32, 9);
  data.fill_normal(random_);
  const Slice before(data);
  const base::Bytes phantom(static_cast<std::byte*>(nullptr), 36);
  reduce(DType::kF32, ReduceOp::kSum, phantom, data.view());
  reduce(DType::kF32, ReduceOp::kSum, data.view(), phantom);
  reduce_into(DType::kF32, ReduceOp::kSum, data.view(), data.view(), phantom);
  EXPECT_TRUE(same_bytes(data, before));
}

}  // namespace
}  // namespace gearshift::kernels::testing
