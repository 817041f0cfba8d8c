#pragma once

#include <cstring>

#include "gearshift/base/bytes.h"
#include "gearshift/base/dtype.h"
#include "gearshift/kernels/half.h"

namespace gearshift::ps {

/// Sets every element of a floating-point array. Phantoms are skipped.
inline void fill(base::DType dtype, base::Bytes data, double value) {
  if (data.data() == nullptr) return;
  if (value == 0) {
    std::memset(data.data(), 0, data.size());
    return;
  }
  const auto put = [data](auto element) {
    for (std::size_t i = 0; i + sizeof(element) <= data.size(); i += sizeof(element)) {
      std::memcpy(data.data() + i, &element, sizeof(element));
    }
  };
  const auto narrow = static_cast<float>(value);
  if (dtype == base::DType::kF64) put(value);
  if (dtype == base::DType::kF32) put(narrow);
  if (dtype == base::DType::kF16) put(kernels::f16_from_float(narrow));
  if (dtype == base::DType::kBF16) put(kernels::bf16_from_float(narrow));
}

}  // namespace gearshift::ps
