#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace gearshift::base {

/// Element types that travel. Values are part of the wire protocol: append only.
enum class DType : unsigned char { kF64, kF32, kF16, kBF16, kI8, kU8, kI32, kI64 };

/// How elements of several ranks become one. `kMean` over integers truncates towards zero.
enum class ReduceOp : unsigned char { kSum, kMean, kMin, kMax, kProduct };

constexpr std::size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::kF64:
    case DType::kI64:
      return 8;
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kF16:
    case DType::kBF16:
      return 2;
    case DType::kI8:
    case DType::kU8:
      return 1;
  }
  return 0;
}

constexpr bool is_floating(DType dtype) {
  return dtype == DType::kF64 || dtype == DType::kF32 || dtype == DType::kF16 ||
         dtype == DType::kBF16;
}

/// "float32", "bfloat16", "int64": the names that NumPy and PyTorch use.
std::string_view to_string(DType dtype);
std::optional<DType> dtype_from_string(std::string_view name);

/// "sum", "mean", "min", "max", "product".
std::string_view to_string(ReduceOp op);
std::optional<ReduceOp> reduce_op_from_string(std::string_view name);

}  // namespace gearshift::base
