#pragma once

#include <cassert>
#include <cstddef>

#include "gearshift/base/bytes.h"
#include "gearshift/base/dtype.h"

namespace gearshift::kernels {

/// True if there is nothing to do: any view is a phantom, or all are empty.
template <typename First, typename... Rest>
bool nothing_to_do(First first, Rest... rest) {
  assert(((rest.size() == first.size()) && ...) && "views must have the same size");
  return first.empty() || base::is_phantom(first) || (base::is_phantom(rest) || ...);
}

inline std::size_t count_of(base::DType dtype, base::ConstBytes view) {
  assert(view.size() % base::size_of(dtype) == 0 && "view must hold whole elements");
  return view.size() / base::size_of(dtype);
}

}  // namespace gearshift::kernels
