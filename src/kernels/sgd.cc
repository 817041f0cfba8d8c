#include "gearshift/kernels/optimizer.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/sgd.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/simd-inl.h"
#include "kernels/update-inl.h"
#include "kernels/views.h"

HWY_BEFORE_NAMESPACE();
namespace gearshift::kernels::HWY_NAMESPACE {
namespace {

template <class E>
struct Sgd {
  using T = typename E::Compute;
  T neg_lr, momentum, grad_weight, weight_decay;
  bool nesterov, maximize, first;

  explicit Sgd(const SgdHyper& h, bool is_first)
      : neg_lr(static_cast<T>(-h.lr)),
        momentum(static_cast<T>(h.momentum)),
        grad_weight(static_cast<T>(1 - h.dampening)),
        weight_decay(static_cast<T>(h.weight_decay)),
        nesterov(h.nesterov),
        maximize(h.maximize),
        first(is_first) {}
};

template <class E>
struct PlainStep {  // streams: param, grad
  Sgd<E> h;
  template <class D>
  HWY_INLINE void operator()(D d, const std::byte* const* in, std::byte* const* out) const {
    const auto param = load(E{}, d, in[0]);
    const auto grad = effective_gradient(d, load(E{}, d, in[1]), param, h.maximize, h.weight_decay);
    store(E{}, d, add(d, param, grad, h.neg_lr), out[0]);
  }
};

template <class E>
struct MomentumStep {  // streams: param, momentum buffer, grad
  Sgd<E> h;
  template <class D>
  HWY_INLINE void operator()(D d, const std::byte* const* in, std::byte* const* out) const {
    const auto param = load(E{}, d, in[0]);
    auto grad = effective_gradient(d, load(E{}, d, in[2]), param, h.maximize, h.weight_decay);
    auto buffer = grad;
    if (!h.first) {
      buffer = add(d, mul(d, load(E{}, d, in[1]), h.momentum), grad, h.grad_weight);
    }
    grad = h.nesterov ? add(d, grad, buffer, h.momentum) : buffer;
    store(E{}, d, add(d, param, grad, h.neg_lr), out[0]);
    store(E{}, d, buffer, out[1]);
  }
};

void sgd_any(base::DType dtype, base::Bytes param, base::ConstBytes grad, base::Bytes buffer,
             bool first, const SgdHyper& hyper) {
  const std::size_t count = count_of(dtype, param);
  visit_float(dtype, [&](auto element) HWY_ATTR {
    using E = decltype(element);
    const Sgd<E> h(hyper, first);
    if (hyper.momentum == 0) {
      for_each_vector<E, E>(Streams<2, 1>{{param.data(), grad.data()}, {param.data()}}, count,
                            PlainStep<E>{h});
    } else {
      for_each_vector<E, E>(
          Streams<3, 2>{{param.data(), buffer.data(), grad.data()}, {param.data(), buffer.data()}},
          count, MomentumStep<E>{h});
    }
  });
}

}  // namespace
}  // namespace gearshift::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace gearshift::kernels {
HWY_EXPORT(sgd_any);

void sgd(base::DType dtype, base::Bytes param, base::ConstBytes grad, base::Bytes momentum_buffer,
         bool first, const SgdHyper& hyper) {
  if (nothing_to_do(param, grad)) return;
  if (hyper.momentum != 0 && nothing_to_do(param, base::ConstBytes(momentum_buffer))) return;
  HWY_DYNAMIC_DISPATCH(sgd_any)(dtype, param, grad, momentum_buffer, first, hyper);
}

}  // namespace gearshift::kernels
#endif  // HWY_ONCE
