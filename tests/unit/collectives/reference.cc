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

template <typename Wide>
std::vector<Wide> magnitudes(std::vector<Wide> values) {
  for (Wide& value : values) value = std::abs(value);
  return values;
}

template <typename Wide>
void combine_reals(ReduceOp op, std::vector<Wide>& total, const std::vector<Wide>& more) {
  switch (op) {
    case ReduceOp::kMin:
      return accumulate(total, more, [](Wide a, Wide b) { return std::min(a, b); });
    case ReduceOp::kMax:
      return accumulate(total, more, [](Wide a, Wide b) { return std::max(a, b); });
    case ReduceOp::kProduct:
      return accumulate(total, more, [](Wide a, Wide b) { return a * b; });
    default:
      return accumulate(total, more, [](Wide a, Wide b) { return a + b; });
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
std::string unequal(std::size_t i, Value got, Value expected, Real tolerance) {
  std::ostringstream out;
  out << std::setprecision(20) << "element " << i << ": " << got << " instead of " << expected
      << " +- " << tolerance;
  return out.str();
}

template <typename Wide>
std::vector<Wide> reals_of(const Array& array, Range range) {
  std::vector<Wide> values(range.count);
  const std::byte* const from = array.view().data() + range.begin * base::size_of(array.dtype());
  with_real(array.dtype(), [&](auto type) { unpack(type, from, values); });
  return values;
}

/// Elements handled at a time, so that the wide copies of them stay in the cache.
constexpr std::size_t kBlock = 2048;

/// Calls `body` with one block of `count` elements after the other.
template <typename Body>
void in_blocks(std::size_t count, const Body& body) {
  for (Range block; block.begin < count; block.begin += kBlock) {
    block.count = std::min(kBlock, count - block.begin);
    body(block);
  }
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

std::vector<Real> Array::reals(Range range) const { return reals_of<Real>(*this, range); }

std::vector<std::int64_t> Array::integers(Range range) const {
  std::vector<std::int64_t> values(range.count);
  with_integer(dtype_, [&](auto type) { unpack(type, element(range.begin), values); });
  return values;
}

bool equal(base::ConstBytes a, base::ConstBytes b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size()) == 0);
}

Reduction::Reduction(const std::vector<Array>& inputs, ReduceOp op) : dtype_(inputs[0].dtype()) {
  if (dtype_ == DType::kF64) {
    expected_.emplace<Floats<Real>>();
  } else if (!base::is_floating(dtype_)) {
    expected_.emplace<Integers>();
  }
  std::visit(
      [&](auto& expected) {
        in_blocks(inputs[0].count(), [&](Range block) { add(expected, inputs, op, block); });
      },
      expected_);
}

template <typename Wide>
void Reduction::add(Floats<Wide>& expected, const std::vector<Array>& inputs, ReduceOp op,
                    Range block) const {
  const auto n = static_cast<Wide>(inputs.size());
  std::vector<Wide> total = reals_of<Wide>(inputs[0], block);
  std::vector<Wide> magnitude = magnitudes(total);
  for (std::size_t r = 1; r < inputs.size(); ++r) {
    const std::vector<Wide> more = reals_of<Wide>(inputs[r], block);
    combine_reals(op, total, more);
    combine_reals(op, magnitude, magnitudes(more));
  }
  const bool exact = op == ReduceOp::kMin || op == ReduceOp::kMax || inputs.size() == 1;
  const Wide divisor = op == ReduceOp::kMean ? n : 1;
  const Wide roundoff = unit_roundoff(dtype_);
  for (std::size_t i = 0; i < block.count; ++i) {
    const Wide bound = magnitude[i] / divisor;
    expected.values.push_back(total[i] / divisor);
    expected.tolerances.push_back(exact ? 0 : (n + 1) * (roundoff * bound + smallest(dtype_)));
  }
}

void Reduction::add(Integers& expected, const std::vector<Array>& inputs, ReduceOp op,
                    Range block) const {
  Integers total = inputs[0].integers(block);
  for (std::size_t r = 1; r < inputs.size(); ++r) {
    combine_integers(op, total, inputs[r].integers(block));
  }
  const std::int64_t divisor = op == ReduceOp::kMean ? static_cast<std::int64_t>(inputs.size()) : 1;
  with_integer(dtype_, [&](auto type) {
    for (const std::int64_t value : total) {
      expected.push_back(type.widen(type.narrow(value / divisor)));
    }
  });
}

std::string Reduction::difference(const Array& result, std::size_t begin) const {
  std::string found;
  in_blocks(result.count(), [&](Range block) {
    if (!found.empty()) return;
    found = std::visit(
        [&](const auto& expected) { return differ(expected, result, block, begin + block.begin); },
        expected_);
  });
  return found;
}

template <typename Wide>
std::string Reduction::differ(const Floats<Wide>& expected, const Array& result, Range block,
                              std::size_t begin) {
  const std::vector<Wide> got = reals_of<Wide>(result, block);
  for (std::size_t i = 0; i < got.size(); ++i) {
    const Wide value = expected.values[begin + i];
    const Wide tolerance = expected.tolerances[begin + i];
    if (std::abs(got[i] - value) <= tolerance) continue;
    return unequal(begin + i, got[i], value, tolerance);
  }
  return {};
}

std::string Reduction::differ(const Integers& expected, const Array& result, Range block,
                              std::size_t begin) {
  const Integers got = result.integers(block);
  for (std::size_t i = 0; i < got.size(); ++i) {
    const std::int64_t value = expected[begin + i];
    if (got[i] != value) return unequal(begin + i, got[i], value, 0);
  }
  return {};
}

std::string compare(const std::vector<Array>& inputs, ReduceOp op, const Array& result) {
  return Reduction(inputs, op).difference(result);
}

}  // namespace gearshift::collectives::testing
