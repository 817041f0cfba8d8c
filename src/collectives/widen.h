#pragma once

#include "gearshift/base/bytes.h"
#include "gearshift/base/dtype.h"

namespace gearshift::collectives {

/// Whether the mean of this type is computed in int64: the sum of small integers leaves their range
/// long before their mean does. (A sum of int64 itself wraps around.)
constexpr bool mean_needs_widening(base::DType dtype) {
  return dtype == base::DType::kI8 || dtype == base::DType::kU8 || dtype == base::DType::kI32;
}

/// What is combined: elements of `dtype`, which the caller has as `meant`, narrower where a mean is
/// widened. Ranks must mean the same, also where all of them combine int64.
struct Reduction {
  base::DType dtype;
  base::ReduceOp op;
  base::DType meant;
};

/// The integers of `from` as int64; a phantom stays one.
base::Buffer widen(base::DType dtype, base::ConstBytes from);
/// Back again; the values must fit.
void narrow(base::DType dtype, base::ConstBytes from, base::Bytes into);

}  // namespace gearshift::collectives
