#include <cmath>

#include "gearshift/kernels/reduce.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/norm.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/simd-inl.h"
#include "kernels/views.h"

HWY_BEFORE_NAMESPACE();
namespace gearshift::kernels::HWY_NAMESPACE {
namespace {

// Element i is added to partial sum i mod 16, whatever the vectors' width, so that the result has
// the same bits on every processor. Squares of 32-bit and shorter floats are exact in float64.
constexpr std::size_t kPartialSums = 16;
using Wide = hn::CappedTag<double, kPartialSums>;

template <typename T>
HWY_INLINE hn::Vec<Wide> load_wide(Plain<T> element, Wide wide, const std::byte* from) {
  if constexpr (sizeof(T) == sizeof(double)) {
    return load(element, wide, from);
  } else {
    const hn::Rebind<float, Wide> narrow;
    return hn::PromoteTo(wide, load(element, narrow, from));
  }
}

template <class Half>
HWY_INLINE hn::Vec<Wide> load_wide(Half element, Wide wide, const std::byte* from) {
  const hn::Rebind<float, Wide> narrow;
  return hn::PromoteTo(wide, load(element, narrow, from));
}

template <class E>
HWY_INLINE void add_squares(const std::byte* from, double* partial_sums) {
  const Wide wide;
  for (std::size_t i = 0; i < kPartialSums; i += hn::Lanes(wide)) {
    const auto x = load_wide(E{}, wide, from + i * E::kSize);
    hn::Store(hn::Add(hn::Load(wide, partial_sums + i), hn::Mul(x, x)), wide, partial_sums + i);
  }
}

template <class E>
double sum_of_squares(const std::byte* data, std::size_t count) {
  HWY_ALIGN double partial_sums[kPartialSums] = {};
  for (; count >= kPartialSums; count -= kPartialSums, data += kPartialSums * E::kSize) {
    add_squares<E>(data, partial_sums);
  }
  std::byte padded[kPartialSums * E::kSize] = {};
  std::memcpy(padded, data, count * E::kSize);
  add_squares<E>(padded, partial_sums);

  double total = 0;
  for (const double sum : partial_sums) total += sum;
  return total;
}

double sum_of_squares_any(base::DType dtype, const std::byte* data, std::size_t count) {
  double total = 0;
  visit_float(dtype, [&](auto element)
                         HWY_ATTR { total = sum_of_squares<decltype(element)>(data, count); });
  return total;
}

}  // namespace
}  // namespace gearshift::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace gearshift::kernels {
namespace {
HWY_EXPORT(sum_of_squares_any);

bool all_finite_doubles(base::ConstBytes data) {
  for (std::size_t offset = 0; offset < data.size(); offset += sizeof(double)) {
    double value;
    std::memcpy(&value, data.data() + offset, sizeof(value));
    if (!std::isfinite(value)) return false;
  }
  return true;
}
}  // namespace

NormPart norm_part(base::DType dtype, base::ConstBytes data) {
  NormPart part;
  if (nothing_to_do(data)) return part;
  part.sum_of_squares =
      HWY_DYNAMIC_DISPATCH(sum_of_squares_any)(dtype, data.data(), count_of(dtype, data));
  // A finite sum has finite terms. The converse fails for float64 only, whose squares may overflow.
  part.all_finite = std::isfinite(part.sum_of_squares) ||
                    (dtype == base::DType::kF64 && all_finite_doubles(data));
  return part;
}

}  // namespace gearshift::kernels
#endif  // HWY_ONCE
