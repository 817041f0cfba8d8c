#include "gearshift/base/dtype.h"

#include <array>
#include <utility>

namespace gearshift::base {
namespace {

constexpr std::array<std::pair<DType, std::string_view>, 8> kDTypes{{
    {DType::kF64, "float64"},
    {DType::kF32, "float32"},
    {DType::kF16, "float16"},
    {DType::kBF16, "bfloat16"},
    {DType::kI8, "int8"},
    {DType::kU8, "uint8"},
    {DType::kI32, "int32"},
    {DType::kI64, "int64"},
}};

constexpr std::array<std::pair<ReduceOp, std::string_view>, 5> kOps{{
    {ReduceOp::kSum, "sum"},
    {ReduceOp::kMean, "mean"},
    {ReduceOp::kMin, "min"},
    {ReduceOp::kMax, "max"},
    {ReduceOp::kProduct, "product"},
}};

template <typename Table, typename Key>
std::string_view name_of(const Table& table, Key key) {
  for (const auto& [value, name] : table) {
    if (value == key) return name;
  }
  return "unknown";
}

template <typename Value, typename Table>
std::optional<Value> value_of(const Table& table, std::string_view wanted) {
  for (const auto& [value, name] : table) {
    if (name == wanted) return value;
  }
  return std::nullopt;
}

}  // namespace

std::string_view to_string(DType dtype) { return name_of(kDTypes, dtype); }
std::optional<DType> dtype_from_string(std::string_view name) {
  return value_of<DType>(kDTypes, name);
}
std::string_view to_string(ReduceOp op) { return name_of(kOps, op); }
std::optional<ReduceOp> reduce_op_from_string(std::string_view name) {
  return value_of<ReduceOp>(kOps, name);
}

}  // namespace gearshift::base
