#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <variant>
#include <vector>

#include "gearshift/base/bytes.h"
#include "gearshift/base/dtype.h"

namespace gearshift::collectives::testing {

inline constexpr base::DType kAllTypes[] = {
    base::DType::kF64, base::DType::kF32, base::DType::kF16, base::DType::kBF16,
    base::DType::kI8,  base::DType::kU8,  base::DType::kI32, base::DType::kI64};
inline constexpr base::ReduceOp kAllOps[] = {base::ReduceOp::kSum, base::ReduceOp::kMean,
                                             base::ReduceOp::kMin, base::ReduceOp::kMax,
                                             base::ReduceOp::kProduct};

/// What references of float results are computed in: float64 must not be compared with itself.
using Real = long double;

/// Consecutive elements.
struct Range {
  std::size_t begin = 0;
  std::size_t count = 0;
};

/// Elements at an address that is a multiple of 64, plus `offset` bytes.
class Array {
 public:
  Array(base::DType dtype, std::size_t count, std::size_t offset = 0)
      : dtype_(dtype), offset_(offset), memory_(count * base::size_of(dtype) + offset + 1) {
    std::memset(memory_.data(), 0, memory_.size());
  }
  Array(const Array& other) : Array(other.dtype_, other.count(), other.offset_) {
    if (!view().empty()) std::memcpy(view().data(), other.view().data(), view().size());
  }
  Array(Array&&) = default;
  /// Values that depend on the rank and the index: floats in [-2, 2], integers of the whole range.
  static Array of_rank(base::DType dtype, std::size_t count, int rank, std::size_t offset = 0);

  base::Bytes view() { return base::slice(memory_.view(), offset_, memory_.size() - offset_ - 1); }
  base::ConstBytes view() const {
    return base::slice(memory_.view(), offset_, memory_.size() - offset_ - 1);
  }
  base::DType dtype() const { return dtype_; }
  std::size_t count() const { return view().size() / base::size_of(dtype_); }
  /// Some of the values, or all; floats only, or integers only.
  std::vector<Real> reals(Range range) const;
  std::vector<Real> reals() const { return reals({0, count()}); }
  std::vector<std::int64_t> integers(Range range) const;

 private:
  const std::byte* element(std::size_t i) const {
    return view().data() + i * base::size_of(dtype_);
  }

  base::DType dtype_;
  std::size_t offset_;
  base::Buffer memory_;
};

bool equal(base::ConstBytes a, base::ConstBytes b);

/// Floats as they should be, and what they may be off by.
template <typename Wide>
struct Floats {
  std::vector<Wide> values;
  std::vector<Wide> tolerances;
};

/// The reduction of the ranks' inputs, done one by one in a wider type: long double for float64,
/// double for the other floats, or int64. Floats may differ from it by the rounding of as many
/// operations in their type as there are ranks.
class Reduction {
 public:
  /// At least one input; all of one type and size.
  Reduction(const std::vector<Array>& inputs, base::ReduceOp op);
  /// What differs in `result`, the elements from `begin` on, or "".
  std::string difference(const Array& result, std::size_t begin = 0) const;

 private:
  using Integers = std::vector<std::int64_t>;

  template <typename Wide>
  void add(Floats<Wide>& expected, const std::vector<Array>& inputs, base::ReduceOp op,
           Range block) const;
  void add(Integers& expected, const std::vector<Array>& inputs, base::ReduceOp op,
           Range block) const;
  template <typename Wide>
  static std::string differ(const Floats<Wide>& expected, const Array& result, Range block,
                            std::size_t begin);
  static std::string differ(const Integers& expected, const Array& result, Range block,
                            std::size_t begin);

  base::DType dtype_;
  std::variant<Floats<double>, Floats<Real>, Integers> expected_;
};

/// What differs between `result` and the reduction of all inputs, or "".
std::string compare(const std::vector<Array>& inputs, base::ReduceOp op, const Array& result);

}  // namespace gearshift::collectives::testing
