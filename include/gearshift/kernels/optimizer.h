#pragma once

#include <cstdint>

#include "gearshift/base/bytes.h"
#include "gearshift/base/dtype.h"

namespace gearshift::kernels {

// The element-wise updates of torch.optim on slices: same formulas, same order of operations, same
// roundings as its single-tensor CPU implementation (fused multiply-adds included), hence the same
// bits for kF32 and kF64 wherever torch's own square root is correctly rounded. kF16 and kBF16
// compute in float32 and round once.
//
// `param`, `grad` and every state view have the same number of elements of `dtype` and may be
// unaligned, but must not overlap. An empty state view is allowed where noted. If any view that an
// update needs is a phantom, nothing happens. An element's result does not depend on where the
// slice begins or ends; it may differ in the last bit between processors with and without fused
// multiply-add. Vectorised, dispatched at run time.
// Thread-safety: pure functions of their memory.

struct SgdHyper {
  double lr = 1e-3, momentum = 0, dampening = 0, weight_decay = 0;
  bool nesterov = false, maximize = false;
};
/// `momentum_buffer` may be empty when momentum == 0. `first`: the buffer is set to the gradient
/// (torch initialises it so at a parameter's first step). Source: torch.optim.SGD.
void sgd(base::DType dtype, base::Bytes param, base::ConstBytes grad, base::Bytes momentum_buffer,
         bool first, const SgdHyper& hyper);

struct AdamHyper {
  double lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0;
  bool decoupled = false;  ///< AdamW: weight decay multiplies the parameter, not the gradient
  bool amsgrad = false, maximize = false;
};
/// `step` counts from 1. `max_exp_avg_sq` is empty unless amsgrad. Source: torch.optim.Adam(W).
void adam(base::DType dtype, base::Bytes param, base::ConstBytes grad, base::Bytes exp_avg,
          base::Bytes exp_avg_sq, base::Bytes max_exp_avg_sq, std::int64_t step,
          const AdamHyper& hyper);

struct AdagradHyper {
  double lr = 1e-2, lr_decay = 0, eps = 1e-10, weight_decay = 0;
  bool maximize = false;
  double gradient_factor = 1;  ///< of the gradient, weight decay included
};
/// `step` counts from 1. Source: torch.optim.Adagrad, with the gradient times its factor.
void adagrad(base::DType dtype, base::Bytes param, base::ConstBytes grad, base::Bytes sum,
             std::int64_t step, const AdagradHyper& hyper);

}  // namespace gearshift::kernels
