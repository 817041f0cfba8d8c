#include "reference.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <sstream>

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

template <typename T>
T load(const std::byte* p) {
  T value;
  std::memcpy(&value, p, sizeof(T));
  return value;
}
template <typename T, typename V>
void store(std::byte* p, V value) {
  const auto converted = static_cast<T>(value);
  std::memcpy(p, &converted, sizeof(T));
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

struct Expected {
  double value = 0;
  double tolerance = 0;
};

Expected expected_real(const std::vector<Array>& inputs, ReduceOp op, std::size_t i) {
  const auto n = static_cast<double>(inputs.size());
  long double value = inputs[0].real(i);
  double magnitude = std::abs(inputs[0].real(i));
  for (std::size_t r = 1; r < inputs.size(); ++r) {
    const double x = inputs[r].real(i);
    switch (op) {
      case ReduceOp::kMin:
        value = std::min<long double>(value, x);
        break;
      case ReduceOp::kMax:
        value = std::max<long double>(value, x);
        break;
      case ReduceOp::kProduct:
        value *= x;
        magnitude *= std::abs(x);
        break;
      default:
        value += x;
        magnitude += std::abs(x);
    }
  }
  if (op == ReduceOp::kMin || op == ReduceOp::kMax) return {static_cast<double>(value), 0};
  if (op == ReduceOp::kMean) {
    value /= n;
    magnitude /= n;
  }
  const DType dtype = inputs[0].dtype();
  const double tolerance = (n + 1) * (unit_roundoff(dtype) * magnitude + smallest(dtype));
  return {static_cast<double>(value), inputs.size() == 1 ? 0 : tolerance};
}

/// Wraps around in 64 bits; the caller cuts it down to the type.
std::int64_t expected_integer(const std::vector<Array>& inputs, ReduceOp op, std::size_t i) {
  std::int64_t value = inputs[0].integer(i);
  for (std::size_t r = 1; r < inputs.size(); ++r) {
    const std::int64_t x = inputs[r].integer(i);
    const auto a = static_cast<std::uint64_t>(value);
    const auto b = static_cast<std::uint64_t>(x);
    switch (op) {
      case ReduceOp::kMin:
        value = std::min(value, x);
        break;
      case ReduceOp::kMax:
        value = std::max(value, x);
        break;
      case ReduceOp::kProduct:
        value = static_cast<std::int64_t>(a * b);
        break;
      default:
        value = static_cast<std::int64_t>(a + b);
    }
  }
  return op == ReduceOp::kMean ? value / static_cast<std::int64_t>(inputs.size()) : value;
}

std::int64_t wrapped(DType dtype, std::int64_t value) {
  switch (dtype) {
    case DType::kI8:
      return static_cast<std::int8_t>(value);
    case DType::kU8:
      return static_cast<std::uint8_t>(value);
    case DType::kI32:
      return static_cast<std::int32_t>(value);
    default:
      return value;
  }
}

}  // namespace

Array Array::of_rank(DType dtype, std::size_t count, int rank, std::size_t offset) {
  Array array(dtype, count, offset);
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint64_t random = mixed(i * 1000 + static_cast<std::uint64_t>(rank));
    if (base::is_floating(dtype)) {
      array.set_real(i, static_cast<double>(random % 40001) / 10000.0 - 2);
    } else {
      array.set_integer(i, static_cast<std::int64_t>(random));
    }
  }
  return array;
}

double Array::real(std::size_t i) const {
  const std::byte* p = view().data() + i * base::size_of(dtype_);
  switch (dtype_) {
    case DType::kF64:
      return load<double>(p);
    case DType::kF32:
      return load<float>(p);
    case DType::kF16:
      return kernels::f16_to_float(load<std::uint16_t>(p));
    default:
      return kernels::bf16_to_float(load<std::uint16_t>(p));
  }
}

void Array::set_real(std::size_t i, double value) {
  std::byte* p = view().data() + i * base::size_of(dtype_);
  switch (dtype_) {
    case DType::kF64:
      return store<double>(p, value);
    case DType::kF32:
      return store<float>(p, value);
    case DType::kF16:
      return store<std::uint16_t>(p, kernels::f16_from_float(static_cast<float>(value)));
    default:
      return store<std::uint16_t>(p, kernels::bf16_from_float(static_cast<float>(value)));
  }
}

std::int64_t Array::integer(std::size_t i) const {
  const std::byte* p = view().data() + i * base::size_of(dtype_);
  switch (dtype_) {
    case DType::kI8:
      return load<std::int8_t>(p);
    case DType::kU8:
      return load<std::uint8_t>(p);
    case DType::kI32:
      return load<std::int32_t>(p);
    default:
      return load<std::int64_t>(p);
  }
}

void Array::set_integer(std::size_t i, std::int64_t value) {
  // The lowest bytes of a little-endian integer are its value in the narrower type.
  std::memcpy(view().data() + i * base::size_of(dtype_), &value, base::size_of(dtype_));
}

bool equal(base::ConstBytes a, base::ConstBytes b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size()) == 0);
}

std::string compare(const std::vector<Array>& inputs, ReduceOp op, const Array& result,
                    std::size_t begin, std::size_t count) {
  const DType dtype = inputs[0].dtype();
  std::ostringstream out;
  for (std::size_t i = 0; i < count; ++i) {
    if (base::is_floating(dtype)) {
      const Expected expected = expected_real(inputs, op, begin + i);
      const double got = result.real(i);
      if (std::abs(got - expected.value) <= expected.tolerance) continue;
      out << "element " << begin + i << ": " << got << " instead of " << expected.value << " +- "
          << expected.tolerance;
      return out.str();
    }
    const std::int64_t expected = wrapped(dtype, expected_integer(inputs, op, begin + i));
    if (result.integer(i) == expected) continue;
    out << "element " << begin + i << ": " << result.integer(i) << " instead of " << expected;
    return out.str();
  }
  return {};
}

}  // namespace gearshift::collectives::testing
