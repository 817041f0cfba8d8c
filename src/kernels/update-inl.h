// The tensor operations that torch's optimizers are written in, with the roundings of torch's
// kernels: where those use a fused multiply-add, so do these. (An instruction set without one
// rounds twice.)

#if defined(GEARSHIFT_KERNELS_UPDATE_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef GEARSHIFT_KERNELS_UPDATE_INL_H
#undef GEARSHIFT_KERNELS_UPDATE_INL_H
#else
#define GEARSHIFT_KERNELS_UPDATE_INL_H
#endif

#include <hwy/highway.h>

#include "kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace gearshift::kernels::HWY_NAMESPACE {

template <class D, class V = hn::Vec<D>, typename T = hn::TFromD<D>>
HWY_INLINE V mul(D d, V x, T factor) {
  return hn::Mul(x, hn::Set(d, factor));
}

/// x + alpha * y
template <class D, class V = hn::Vec<D>, typename T = hn::TFromD<D>>
HWY_INLINE V add(D d, V x, V y, T alpha) {
  return hn::MulAdd(hn::Set(d, alpha), y, x);
}

/// x + value * y * z
template <class D, class V = hn::Vec<D>, typename T = hn::TFromD<D>>
HWY_INLINE V addcmul(D d, V x, V y, V z, T value) {
  return hn::MulAdd(hn::Mul(hn::Set(d, value), y), z, x);
}

/// x + value * y / z
template <class D, class V = hn::Vec<D>, typename T = hn::TFromD<D>>
HWY_INLINE V addcdiv(D d, V x, V y, V z, T value) {
  return hn::Add(x, hn::Div(hn::Mul(hn::Set(d, value), y), z));
}

/// x + weight * (y - x), from the nearer end.
template <class D, class V = hn::Vec<D>, typename T = hn::TFromD<D>>
HWY_INLINE V lerp(D d, V x, V y, T weight) {
  const V distance = hn::Sub(y, x);
  const bool near = -T{0.5} < weight && weight < T{0.5};
  return near ? hn::MulAdd(hn::Set(d, weight), distance, x)
              : hn::MulAdd(distance, hn::Set(d, weight - T{1}), y);
}

/// The gradient as an update sees it: negated to maximize, with coupled weight decay.
template <class D, class V = hn::Vec<D>, typename T = hn::TFromD<D>>
HWY_INLINE V effective_gradient(D d, V grad, V param, bool maximize, T weight_decay) {
  if (maximize) grad = hn::Neg(grad);
  return weight_decay == 0 ? grad : add(d, grad, param, weight_decay);
}

}  // namespace gearshift::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // GEARSHIFT_KERNELS_UPDATE_INL_H
