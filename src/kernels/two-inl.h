// Neighbouring 16-bit floats, taken two vectors at a time: for sums, which are then about as fast
// as those of 32-bit floats. Conversions one vector at a time (see simd-inl.h) move values across
// the lanes, and leave half of what is stored empty.

#if defined(GEARSHIFT_KERNELS_TWO_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef GEARSHIFT_KERNELS_TWO_INL_H
#undef GEARSHIFT_KERNELS_TWO_INL_H
#else
#define GEARSHIFT_KERNELS_TWO_INL_H
#endif

#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>

#include "kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace gearshift::kernels::HWY_NAMESPACE {

template <class V>
struct Two {
  V first, second;
};

/// The lower and the upper elements of 2n.
struct TwoF16 {
  using Compute = float;
  static constexpr std::size_t kSize = 2 * F16::kSize;
};
/// The even and the odd elements of 2n: the halves of 32-bit lanes.
struct TwoBF16 {
  using Compute = float;
  static constexpr std::size_t kSize = 2 * BF16::kSize;
};

/// The kind to sum elements of kind E in, and the vectors for it.
template <class E>
struct Summed {
  using Kind = E;
};
template <class E>
struct TagOf {
  using Type = hn::ScalableTag<typename E::Compute>;
};

#if GEARSHIFT_HARDWARE_F16
template <>
struct Summed<F16> {
  using Kind = TwoF16;
};
/// Eight lanes: conversions of sixteen take longer than twice eight on some processors.
template <>
struct TagOf<TwoF16> {
  using Type = hn::CappedTag<float, 8>;
};

template <class D, class V = hn::Vec<D>>
HWY_INLINE Two<V> load(TwoF16, D d, const std::byte* from) {
  return {load(F16{}, d, from), load(F16{}, d, from + hn::Lanes(d) * F16::kSize)};
}

template <class D, class V>
HWY_INLINE auto pack(TwoF16, D, Two<V> v) {
  const hn::Rebind<hwy::float16_t, D> dhalf;
  const hn::Rebind<std::uint16_t, D> d16;
  const auto first = hn::BitCast(d16, hn::DemoteTo(dhalf, v.first));
  const auto second = hn::BitCast(d16, hn::DemoteTo(dhalf, v.second));
  return hn::Combine(hn::Twice<decltype(d16)>(), second, first);
}

template <class D, class V>
HWY_INLINE void store_packed(TwoF16, D, V v, std::byte* to) {
  store_bits(hn::Twice<hn::Rebind<std::uint16_t, D>>(), v, to);
}
#endif

#if HWY_TARGET != HWY_SCALAR  // which has no lanes to take halves of
template <>
struct Summed<BF16> {
  using Kind = TwoBF16;
};

template <class D, class V = hn::Vec<D>>
HWY_INLINE Two<V> load(TwoBF16, D d, const std::byte* from) {
  const hn::RebindToUnsigned<D> d32;
  const auto bits = load_bits(d32, from);
  return {hn::BitCast(d, hn::ShiftLeft<16>(bits)),
          hn::BitCast(d, hn::And(bits, hn::Set(d32, 0xffff0000u)))};
}

/// Rounds to nearest even, all elements at once: adds to the upper halves what the lower ones carry
/// when 0x7fff, or 0x8000 for an odd upper half, is added to them. (The rounded average of x and y
/// is (x + y + 1) / 2; its uppermost bit is the carry.) A NaN must have zeros in its lower half:
/// those never carry.
template <class D, class V>
HWY_INLINE auto pack(TwoBF16, D, Two<V> v) {
  const hn::RebindToUnsigned<D> d32;
  const hn::Repartition<std::uint16_t, D> d16;
  const auto even = hn::BitCast(d32, v.first);
  const auto odd = hn::BitCast(d32, v.second);
  const auto upper = hn::OddEven(hn::BitCast(d16, odd), hn::BitCast(d16, hn::ShiftRight<16>(even)));
  const auto lower = hn::OddEven(hn::BitCast(d16, hn::ShiftLeft<16>(odd)), hn::BitCast(d16, even));
  const auto added = hn::OrAnd(hn::Set(d16, 0x7ffe), upper, hn::Set(d16, 1));
  return hn::Add(upper, hn::ShiftRight<15>(hn::AverageRound(lower, added)));
}

template <class D, class V>
HWY_INLINE void store_packed(TwoBF16, D, V v, std::byte* to) {
  store_bits(hn::Repartition<std::uint16_t, D>(), v, to);
}
#endif

// The same for kinds of one vector, whose rounding belongs to their stores.
template <class E, class D, class V>
HWY_INLINE V pack(E, D, V v) {
  return v;
}
template <class E, class D, class V>
HWY_INLINE void store_packed(E, D d, V v, std::byte* to) {
  store(E{}, d, v, to);
}

template <class Op, class D, class V>
HWY_INLINE V combine(D d, V a, V b) {
  return Op::combine(d, a, b);
}
template <class Op, class D, class V>
HWY_INLINE Two<V> combine(D d, Two<V> a, Two<V> b) {
  return {Op::combine(d, a.first, b.first), Op::combine(d, a.second, b.second)};
}

template <class V>
HWY_INLINE V times(V v, V factor) {
  return hn::Mul(v, factor);
}
template <class V>
HWY_INLINE Two<V> times(Two<V> v, V factor) {
  return {hn::Mul(v.first, factor), hn::Mul(v.second, factor)};
}

}  // namespace gearshift::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // GEARSHIFT_KERNELS_TWO_INL_H
