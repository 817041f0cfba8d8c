// Typed vectors over untyped, possibly unaligned memory. Highway includes this file once for each
// instruction set, hence the toggled guard.

#if defined(GEARSHIFT_KERNELS_SIMD_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef GEARSHIFT_KERNELS_SIMD_INL_H
#undef GEARSHIFT_KERNELS_SIMD_INL_H
#else
#define GEARSHIFT_KERNELS_SIMD_INL_H
#endif

#include <hwy/highway.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "gearshift/base/dtype.h"
#include "gearshift/kernels/half.h"

HWY_BEFORE_NAMESPACE();
namespace gearshift::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Element kinds: what lies in memory, and what it is computed in.
template <typename T>
struct Plain {
  using Compute = T;
  static constexpr std::size_t kSize = sizeof(T);
};
struct F16 {
  using Compute = float;
  static constexpr std::size_t kSize = 2;
};
struct BF16 {
  using Compute = float;
  static constexpr std::size_t kSize = 2;
};

// Memory is accessed as bytes, so no misaligned typed pointer ever exists. The scalar target has
// one-lane vectors only, which cannot be reinterpreted as bytes.
template <class D>
HWY_INLINE hn::Vec<D> load_bits(D d, const std::byte* from) {
#if HWY_TARGET == HWY_SCALAR
  hn::TFromD<D> value;
  std::memcpy(&value, from, sizeof(value));
  return hn::Set(d, value);
#else
  const hn::Repartition<std::uint8_t, D> bytes;
  return hn::BitCast(d, hn::LoadU(bytes, reinterpret_cast<const std::uint8_t*>(from)));
#endif
}

template <class D>
HWY_INLINE void store_bits(D d, hn::Vec<D> v, std::byte* to) {
#if HWY_TARGET == HWY_SCALAR
  (void)d;
  const hn::TFromD<D> value = hn::GetLane(v);
  std::memcpy(to, &value, sizeof(value));
#else
  const hn::Repartition<std::uint8_t, D> bytes;
  hn::StoreU(hn::BitCast(bytes, v), bytes, reinterpret_cast<std::uint8_t*>(to));
#endif
}

// Highway's f16 conversions round to nearest even only where the hardware does it.
#undef GEARSHIFT_HARDWARE_F16
#if (HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3) && !defined(HWY_DISABLE_F16C)
#define GEARSHIFT_HARDWARE_F16 1
#else
#define GEARSHIFT_HARDWARE_F16 0
#endif

template <class D>
HWY_INLINE hn::Vec<D> load(Plain<hn::TFromD<D>>, D d, const std::byte* from) {
  return load_bits(d, from);
}

template <class D>
HWY_INLINE void store(Plain<hn::TFromD<D>>, D d, hn::Vec<D> v, std::byte* to) {
  store_bits(d, v, to);
}

template <class D>
HWY_INLINE hn::Vec<D> load(F16, D d, const std::byte* from) {
#if GEARSHIFT_HARDWARE_F16
  const hn::Rebind<std::uint16_t, D> d16;
  const hn::Rebind<hwy::float16_t, D> dhalf;
  return hn::PromoteTo(d, hn::BitCast(dhalf, load_bits(d16, from)));
#else
  HWY_ALIGN float lanes[hn::MaxLanes(D())];
  for (std::size_t i = 0; i < hn::Lanes(d); ++i) {
    std::uint16_t half;
    std::memcpy(&half, from + i * sizeof(half), sizeof(half));
    lanes[i] = f16_to_float(half);
  }
  return hn::Load(d, lanes);
#endif
}

template <class D>
HWY_INLINE void store(F16, D d, hn::Vec<D> v, std::byte* to) {
#if GEARSHIFT_HARDWARE_F16
  const hn::Rebind<std::uint16_t, D> d16;
  const hn::Rebind<hwy::float16_t, D> dhalf;
  store_bits(d16, hn::BitCast(d16, hn::DemoteTo(dhalf, v)), to);
#else
  HWY_ALIGN float lanes[hn::MaxLanes(D())];
  hn::Store(v, d, lanes);
  for (std::size_t i = 0; i < hn::Lanes(d); ++i) {
    const std::uint16_t half = f16_from_float(lanes[i]);
    std::memcpy(to + i * sizeof(half), &half, sizeof(half));
  }
#endif
}

template <class D>
HWY_INLINE hn::Vec<D> load(BF16, D d, const std::byte* from) {
  const hn::Rebind<std::uint16_t, D> d16;
  const hn::Rebind<std::uint32_t, D> d32;
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(d32, load_bits(d16, from))));
}

template <class D>
HWY_INLINE void store(BF16, D, hn::Vec<D> v, std::byte* to) {
  const hn::RebindToUnsigned<D> d32;
  const hn::RebindToSigned<D> signed32;
  const hn::Rebind<std::uint16_t, D> d16;
  const auto bits = hn::BitCast(d32, v);
  const auto truncated = hn::ShiftRight<16>(bits);
  const auto odd = hn::And(truncated, hn::Set(d32, 1));
  const auto rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(hn::Set(d32, 0x7fff), odd)));
  const auto quiet_nan = hn::Or(truncated, hn::Set(d32, 0x40));
  const auto is_nan = hn::RebindMask(d32, hn::IsNaN(v));
  const auto result = hn::IfThenElse(is_nan, quiet_nan, rounded);
  store_bits(d16, hn::DemoteTo(d16, hn::BitCast(signed32, result)), to);
}

// Minimum and maximum as NumPy has them: a NaN on either side is the result.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V min_or_nan(D, V a, V b) {
  if constexpr (hwy::IsFloat<hn::TFromD<D>>()) {
    return hn::IfThenElse(hn::Or(hn::Lt(a, b), hn::IsNaN(a)), a, b);
  } else {
    return hn::Min(a, b);
  }
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE V max_or_nan(D, V a, V b) {
  if constexpr (hwy::IsFloat<hn::TFromD<D>>()) {
    return hn::IfThenElse(hn::Or(hn::Gt(a, b), hn::IsNaN(a)), a, b);
  } else {
    return hn::Max(a, b);
  }
}

template <std::size_t In, std::size_t Out>
struct Streams {
  std::array<const std::byte*, In> in;
  std::array<std::byte*, Out> out;
};

/// Calls body(d, in, out) for each full vector of `count` elements; body loads from the pointers
/// `in` and stores to `out`, which may be the same memory. The rest is copied to a padded vector of
/// its own first: every element sees the same instructions wherever a slice begins or ends, so
/// results do not depend on how a bucket is cut.
template <typename From, typename To, std::size_t In, std::size_t Out, class Body>
HWY_INLINE void for_each_vector(Streams<In, Out> s, std::size_t count, const Body& body) {
  const hn::ScalableTag<typename From::Compute> d;
  const std::size_t lanes = hn::Lanes(d);
  for (; count >= lanes; count -= lanes) {
    body(d, s.in.data(), s.out.data());
    for (auto& p : s.in) p += lanes * From::kSize;
    for (auto& p : s.out) p += lanes * To::kSize;
  }
  if (count == 0) return;

  constexpr std::size_t kMaxBytes = hn::MaxLanes(d) * sizeof(typename From::Compute);
  std::byte padded_in[In][kMaxBytes] = {};
  std::byte padded_out[Out][kMaxBytes];
  Streams<In, Out> padded;
  for (std::size_t i = 0; i < In; ++i) {
    std::memcpy(padded_in[i], s.in[i], count * From::kSize);
    padded.in[i] = padded_in[i];
  }
  for (std::size_t i = 0; i < Out; ++i) padded.out[i] = padded_out[i];
  body(d, padded.in.data(), padded.out.data());
  for (std::size_t i = 0; i < Out; ++i) std::memcpy(s.out[i], padded_out[i], count * To::kSize);
}

/// Calls visit(E{}) with the element kind of a float dtype.
template <class Visit>
void visit_float(base::DType dtype, const Visit& visit) {
  switch (dtype) {
    case base::DType::kF64:
      return visit(Plain<double>{});
    case base::DType::kF32:
      return visit(Plain<float>{});
    case base::DType::kF16:
      return visit(F16{});
    case base::DType::kBF16:
      return visit(BF16{});
    default:
      HWY_ASSERT(false && "float types only");
  }
}

}  // namespace gearshift::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // GEARSHIFT_KERNELS_SIMD_INL_H
