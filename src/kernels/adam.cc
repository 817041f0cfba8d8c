#include <cassert>
#include <cmath>

#include "gearshift/kernels/optimizer.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/adam.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/simd-inl.h"
#include "kernels/update-inl.h"
#include "kernels/views.h"

HWY_BEFORE_NAMESPACE();
namespace gearshift::kernels::HWY_NAMESPACE {
namespace {

template <class E, bool Amsgrad>
struct AdamStep {  // streams: param, exp_avg, exp_avg_sq, [max_exp_avg_sq,] grad
  using T = typename E::Compute;
  T beta2, one_minus_beta1, one_minus_beta2, eps, neg_step_size, bias_correction2_sqrt;
  T weight_decay, keep;
  bool maximize;

  // The scalars are computed in float64 and rounded once, as Python computes them for torch.
  AdamStep(const AdamHyper& h, std::int64_t step)
      : beta2(static_cast<T>(h.beta2)),
        one_minus_beta1(static_cast<T>(1 - h.beta1)),
        one_minus_beta2(static_cast<T>(1 - h.beta2)),
        eps(static_cast<T>(h.eps)),
        weight_decay(static_cast<T>(h.decoupled ? 0 : h.weight_decay)),
        keep(static_cast<T>(h.decoupled ? 1 - h.lr * h.weight_decay : 1)),
        maximize(h.maximize) {
    const double bias_correction1 = 1 - std::pow(h.beta1, static_cast<double>(step));
    const double bias_correction2 = 1 - std::pow(h.beta2, static_cast<double>(step));
    neg_step_size = static_cast<T>(-(h.lr / bias_correction1));
    bias_correction2_sqrt = static_cast<T>(std::pow(bias_correction2, 0.5));
  }

  template <class D>
  HWY_INLINE void operator()(D d, const std::byte* const* in, std::byte* const* out) const {
    // Without decoupled weight decay `keep` is 1, which changes no bit.
    const auto param = mul(d, load(E{}, d, in[0]), keep);
    const auto grad =
        effective_gradient(d, load(E{}, d, in[Amsgrad ? 4 : 3]), param, maximize, weight_decay);
    const auto exp_avg = lerp(d, load(E{}, d, in[1]), grad, one_minus_beta1);
    const auto exp_avg_sq =
        addcmul(d, mul(d, load(E{}, d, in[2]), beta2), grad, grad, one_minus_beta2);
    auto second_moment = exp_avg_sq;
    if constexpr (Amsgrad) {
      second_moment = max_or_nan(d, load(E{}, d, in[3]), exp_avg_sq);
      store(E{}, d, second_moment, out[3]);
    }
    const auto root = hn::Div(hn::Sqrt(second_moment), hn::Set(d, bias_correction2_sqrt));
    const auto denominator = hn::Add(root, hn::Set(d, eps));
    store(E{}, d, addcdiv(d, param, exp_avg, denominator, neg_step_size), out[0]);
    store(E{}, d, exp_avg, out[1]);
    store(E{}, d, exp_avg_sq, out[2]);
  }
};

void adam_any(base::DType dtype, base::Bytes param, base::ConstBytes grad, base::Bytes exp_avg,
              base::Bytes exp_avg_sq, base::Bytes max_exp_avg_sq, std::int64_t step,
              const AdamHyper& hyper) {
  std::byte* const p = param.data();
  std::byte* const m = exp_avg.data();
  std::byte* const v = exp_avg_sq.data();
  std::byte* const v_max = max_exp_avg_sq.data();
  const std::byte* const g = grad.data();
  const std::size_t count = count_of(dtype, param);
  visit_float(dtype, [&](auto element) HWY_ATTR {
    using E = decltype(element);
    if (hyper.amsgrad) {
      for_each_vector<E, E>(Streams<5, 4>{{p, m, v, v_max, g}, {p, m, v, v_max}}, count,
                            AdamStep<E, true>(hyper, step));
    } else {
      for_each_vector<E, E>(Streams<4, 3>{{p, m, v, g}, {p, m, v}}, count,
                            AdamStep<E, false>(hyper, step));
    }
  });
}

}  // namespace
}  // namespace gearshift::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace gearshift::kernels {
HWY_EXPORT(adam_any);

void adam(base::DType dtype, base::Bytes param, base::ConstBytes grad, base::Bytes exp_avg,
          base::Bytes exp_avg_sq, base::Bytes max_exp_avg_sq, std::int64_t step,
          const AdamHyper& hyper) {
  assert(step >= 1);
  if (nothing_to_do(param, grad, exp_avg, exp_avg_sq)) return;
  if (hyper.amsgrad && nothing_to_do(param, max_exp_avg_sq)) return;
  HWY_DYNAMIC_DISPATCH(adam_any)
  (dtype, param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq, step, hyper);
}

}  // namespace gearshift::kernels
#endif  // HWY_ONCE
