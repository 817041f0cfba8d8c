#include "reference.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iomanip>
#include <sstream>
#include <type_traits>

#include "gearshift/kernels/half.h"

namespace gearshift::collectives::testing {
namespace {

using base::DType;
using base::ReduceOp;

/// A well-mixed number (splitmix64).
std::uint64_t mixed(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

struct F16 {
  using Stored = std::uint16_t;
  static double widen(Stored x) { return kernels::f16_to_float(x); }
  static Stored narrow(double x) { return kernels::f16_from_float(static_cast<float>(x)); }
};
struct BF16 {
  using Stored = std::uint16_t;
  static double widen(Stored x) { return kernels::bf16_to_float(x); }
  static Stored narrow(double x) { return kernels::bf16_from_float(static_cast<float>(x)); }
};
template <typename T>
struct Plain {
  using Stored = T;
  using Wide = std::conditional_t<std::is_integral_v<T>, std::int64_t, double>;
  static Wide widen(T x) { return x; }
  static T narrow(Wide x) { return static_cast<T>(x); }
};

/// Calls `body` with the type's conversions.
template <typename Body>
void with_real(DType dtype, const Body& body) {
  if (dtype == DType::kF64) return body(Plain<double>());
  if (dtype == DType::kF32) return body(Plain<float>());
  if (dtype == DType::kF16) return body(F16());
  body(BF16());
}
template <typename Body>
void with_integer(DType dtype, const Body& body) {
  if (dtype == DType::kI8) return body(Plain<std::int8_t>());
  if (dtype == DType::kU8) return body(Plain<std::uint8_t>());
  if (dtype == DType::kI32) return body(Plain<std::int32_t>());
  body(Plain<std::int64_t>());
}

template <typename Type, typename Wide>
void unpack(Type, const std::byte* from, std::vector<Wide>& into) {
  for (Wide& value : into) {
    typename Type::Stored stored;
    std::memcpy(&stored, from, sizeof stored);
    value = Type::widen(stored);
    from += sizeof stored;
  }
}

template <typename Type, typename Value>
void fill(Type, base::Bytes into, const Value& value) {
  constexpr std::size_t kSize = sizeof(typename Type::Stored);
  for (std::size_t i = 0; i < into.size() / kSize; ++i) {
    const typename Type::Stored stored = Type::narrow(value(i));
    std::memcpy(into.data() + i * kSize, &stored, kSize);
  }
}

/// Half a unit in the last place, relative.
double unit_roundoff(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return 0x1p-53;
    case DType::kF32:
      return 0x1p-24;
    case DType::kF16:
      return 0x1p-11;
    default:
      return 0x1p-8;
  }
}
double smallest(DType dtype) { return dtype == DType::kF16 ? 0x1p-24 : 1e-38; }

template <typename Value, typename Combine>
void accumulate(std::vector<Value>& total, const std::vector<Value>& more, Combine combine) {
  for (std::size_t i = 0; i < total.size(); ++i) total[i] = combine(total[i], more[i]);
}

std::vector<Real> magnitudes(std::vector<Real> values) {
  for (Real& value : values) value = std::abs(value);
  return values;
}

void combine_reals(ReduceOp op, std::vector<Real>& total, const std::vector<Real>& more) {
  switch (op) {
    case ReduceOp::kMin:
      return accumulate(total, more, [](Real a, Real b) { return std::min(a, b); });
    case ReduceOp::kMax:
      return accumulate(total, more, [](Real a, Real b) { return std::max(a, b); });
    case ReduceOp::kProduct:
      return accumulate(total, more, [](Real a, Real b) { return a * b; });
    default:
      return accumulate(total, more, [](Real a, Real b) { return a + b; });
  }
}

/// In 64 bits, wrapping around; the caller cuts the result down to its type.
void combine_integers(ReduceOp op, std::vector<std::int64_t>& total,
                      const std::vector<std::int64_t>& more) {
  using Int = std::int64_t;
  using Word = std::uint64_t;
  switch (op) {
    case ReduceOp::kMin:
      return accumulate(total, more, [](Int a, Int b) { return std::min(a, b); });
    case ReduceOp::kMax:
      return accumulate(total, more, [](Int a, Int b) { return std::max(a, b); });
    case ReduceOp::kProduct:
      return accumulate(total, more, [](Int a, Int b) { return Int(Word(a) * Word(b)); });
    default:
      return accumulate(total, more, [](Int a, Int b) { return Int(Word(a) + Word(b)); });
  }
}

template <typename Value>
std::string difference(std::size_t i, Value got, Value expected, Real tolerance) {
  std::ostringstream out;
  out << std::setprecision(20) << "element " << i << ": " << got << " instead of " << expected
      << " +- " << tolerance;
  return out.str();
}

/// Elements compared at a time, so that the wide copies of them stay in the cache.
constexpr std::size_t kBlock = 2048;

std::string compare_reals(const std::vector<Array>& inputs, ReduceOp op, const Array& result,
                          std::size_t begin, Range part) {
  const auto n = static_cast<Real>(inputs.size());
  const Range range{begin + part.begin, part.count};
  std::vector<Real> expected = inputs[0].reals(range);
  std::vector<Real> magnitude = magnitudes(expected);
  for (std::size_t r = 1; r < inputs.size(); ++r) {
    const std::vector<Real> more = inputs[r].reals(range);
    combine_reals(op, expected, more);
    combine_reals(op, magnitude, magnitudes(more));
  }
  const bool exact = op == ReduceOp::kMin || op == ReduceOp::kMax || inputs.size() == 1;
  const Real divisor = op == ReduceOp::kMean ? n : 1;
  const DType dtype = result.dtype();
  const std::vector<Real> got = result.reals(part);
  for (std::size_t i = 0; i < got.size(); ++i) {
    const Real value = expected[i] / divisor;
    const Real bound = magnitude[i] / divisor;
    const Real tolerance = exact ? 0 : (n + 1) * (unit_roundoff(dtype) * bound + smallest(dtype));
    if (std::abs(got[i] - value) <= tolerance) continue;
    return difference(range.begin + i, got[i], value, tolerance);
  }
  return {};
}

std::string compare_integers(const std::vector<Array>& inputs, ReduceOp op, const Array& result,
                             std::size_t begin, Range part) {
  const Range range{begin + part.begin, part.count};
  std::vector<std::int64_t> expected = inputs[0].integers(range);
  for (std::size_t r = 1; r < inputs.size(); ++r) {
    combine_integers(op, expected, inputs[r].integers(range));
  }
  const auto n = static_cast<std::int64_t>(inputs.size());
  const std::vector<std::int64_t> got = result.integers(part);
  std::string found;
  with_integer(result.dtype(), [&](auto type) {
    for (std::size_t i = 0; i < got.size() && found.empty(); ++i) {
      const std::int64_t value = expected[i] / (op == ReduceOp::kMean ? n : 1);
      const std::int64_t wrapped = type.widen(type.narrow(value));
      if (got[i] != wrapped) found = difference(range.begin + i, got[i], wrapped, 0);
    }
  });
  return found;
}

}  // namespace

Array Array::of_rank(DType dtype, std::size_t count, int rank, std::size_t offset) {
  Array array(dtype, count, offset);
  const auto random = [rank](std::size_t i) {
    return mixed(i * 1000 + static_cast<std::uint64_t>(rank));
  };
  if (base::is_floating(dtype)) {
    with_real(dtype, [&](auto type) {
      fill(type, array.view(),
           [&](std::size_t i) { return static_cast<double>(random(i) % 40001) / 10000.0 - 2; });
    });
  } else {
    with_integer(dtype, [&](auto type) {
      fill(type, array.view(), [&](std::size_t i) { return static_cast<std::int64_t>(random(i)); });
    });
  }
  return array;
}

std::vector<Real> Array::reals(Range range) const {
  std::vector<Real> values(range.count);
  with_real(dtype_, [&](auto type) { unpack(type, element(range.begin), values); });
  return values;
}

std::vector<std::int64_t> Array::integers(Range range) const {
  std::vector<std::int64_t> values(range.count);
  with_integer(dtype_, [&](auto type) { unpack(type, element(range.begin), values); });
  return values;
}

bool equal(base::ConstBytes a, base::ConstBytes b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size()) == 0);
}

std::string compare(const std::vector<Array>& inputs, ReduceOp op, const Array& result,
                    std::size_t begin) {
  const auto compare_part = base::is_floating(result.dtype()) ? compare_reals : compare_integers;
  for (Range part; part.begin < result.count(); part.begin += kBlock) {
    part.count = std::min(kBlock, result.count() - part.begin);
    std::string found = compare_part(inputs, op, result, begin, part);
    if (!found.empty()) return found;
  }
  return {};
}

}  // namespace gearshift::collectives::testing
