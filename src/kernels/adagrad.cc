#include <cassert>

#include "gearshift/kernels/optimizer.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/adagrad.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/simd-inl.h"
#include "kernels/update-inl.h"
#include "kernels/views.h"

HWY_BEFORE_NAMESPACE();
namespace gearshift::kernels::HWY_NAMESPACE {
namespace {

template <class E>
struct AdagradStep {  // streams: param, sum, grad
  using T = typename E::Compute;
  T neg_lr, eps, weight_decay, gradient_factor;
  bool maximize;

  AdagradStep(const AdagradHyper& h, std::int64_t step)
      : neg_lr(static_cast<T>(-(h.lr / (1 + static_cast<double>(step - 1) * h.lr_decay)))),
        eps(static_cast<T>(h.eps)),
        weight_decay(static_cast<T>(h.weight_decay)),
        gradient_factor(static_cast<T>(h.gradient_factor)),
        maximize(h.maximize) {}

  template <class D>
  HWY_INLINE void operator()(D d, const std::byte* const* in, std::byte* const* out) const {
    const auto param = load(E{}, d, in[0]);
    const auto whole = effective_gradient(d, load(E{}, d, in[2]), param, maximize, weight_decay);
    const auto grad = hn::Mul(whole, hn::Set(d, gradient_factor));
    const auto sum = addcmul(d, load(E{}, d, in[1]), grad, grad, T{1});
    const auto root = hn::Add(hn::Sqrt(sum), hn::Set(d, eps));
    store(E{}, d, addcdiv(d, param, grad, root, neg_lr), out[0]);
    store(E{}, d, sum, out[1]);
  }
};

void adagrad_any(base::DType dtype, base::Bytes param, base::ConstBytes grad, base::Bytes sum,
                 std::int64_t step, const AdagradHyper& hyper) {
  visit_float(dtype, [&](auto element) HWY_ATTR {
    using E = decltype(element);
    const Streams<3, 2> streams{{param.data(), sum.data(), grad.data()},
                                {param.data(), sum.data()}};
    for_each_vector<E, E>(streams, count_of(dtype, param), AdagradStep<E>(hyper, step));
  });
}

}  // namespace
}  // namespace gearshift::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace gearshift::kernels {
HWY_EXPORT(adagrad_any);

void adagrad(base::DType dtype, base::Bytes param, base::ConstBytes grad, base::Bytes sum,
             std::int64_t step, const AdagradHyper& hyper) {
  assert(step >= 1);
  if (nothing_to_do(param, grad, sum)) return;
  HWY_DYNAMIC_DISPATCH(adagrad_any)(dtype, param, grad, sum, step, hyper);
}

}  // namespace gearshift::kernels
#endif  // HWY_ONCE
