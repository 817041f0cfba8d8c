#include "gearshift/kernels/half.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/half.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <cassert>

#include "kernels/simd-inl.h"
#include "kernels/views.h"

HWY_BEFORE_NAMESPACE();
namespace gearshift::kernels::HWY_NAMESPACE {
namespace {

template <class From, class To>
struct Convert {
  template <class D>
  HWY_INLINE void operator()(D d, const std::byte* const* in, std::byte* const* out) const {
    store(To{}, d, load(From{}, d, in[0]), out[0]);
  }
};

template <class To>
struct ScaleAndNarrow {
  float factor;
  template <class D>
  HWY_INLINE void operator()(D d, const std::byte* const* in, std::byte* const* out) const {
    store(To{}, d, hn::Mul(load(Plain<float>{}, d, in[0]), hn::Set(d, factor)), out[0]);
  }
};

template <class From, class To>
void convert(std::byte* dst, const std::byte* src, std::size_t count) {
  for_each_vector<From, To>(Streams<1, 1>{{src}, {dst}}, count, Convert<From, To>{});
}

template <class To>
void narrow_to(std::byte* halves, const std::byte* floats, std::size_t count, double factor) {
  if (factor == 1) return convert<Plain<float>, To>(halves, floats, count);
  for_each_vector<Plain<float>, To>(Streams<1, 1>{{floats}, {halves}}, count,
                                    ScaleAndNarrow<To>{static_cast<float>(factor)});
}

void narrow_any(bool brain, std::byte* halves, const std::byte* floats, std::size_t count,
                double factor) {
  brain ? narrow_to<BF16>(halves, floats, count, factor)
        : narrow_to<F16>(halves, floats, count, factor);
}

void widen_any(bool brain, std::byte* floats, const std::byte* halves, std::size_t count) {
  brain ? convert<BF16, Plain<float>>(floats, halves, count)
        : convert<F16, Plain<float>>(floats, halves, count);
}

}  // namespace
}  // namespace gearshift::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace gearshift::kernels {
namespace {
HWY_EXPORT(narrow_any);
HWY_EXPORT(widen_any);

bool is_brain(base::DType dtype) {
  assert(dtype == base::DType::kF16 || dtype == base::DType::kBF16);
  return dtype == base::DType::kBF16;
}
}  // namespace

void narrow(base::DType to, base::Bytes halves, base::ConstBytes floats, double factor) {
  if (nothing_to_do(halves) || nothing_to_do(floats)) return;
  assert(floats.size() == 2 * halves.size());
  HWY_DYNAMIC_DISPATCH(narrow_any)
  (is_brain(to), halves.data(), floats.data(), count_of(to, halves), factor);
}

void widen(base::DType from, base::Bytes floats, base::ConstBytes halves) {
  if (nothing_to_do(halves) || nothing_to_do(floats)) return;
  assert(floats.size() == 2 * halves.size());
  HWY_DYNAMIC_DISPATCH(widen_any)
  (is_brain(from), floats.data(), halves.data(), count_of(from, halves));
}

}  // namespace gearshift::kernels
#endif  // HWY_ONCE
