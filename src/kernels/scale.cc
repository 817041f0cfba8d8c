#include <cassert>

#include "gearshift/kernels/reduce.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/scale.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/simd-inl.h"
#include "kernels/views.h"

HWY_BEFORE_NAMESPACE();
namespace gearshift::kernels::HWY_NAMESPACE {
namespace {

template <class E>
struct Scale {
  typename E::Compute factor;
  template <class D>
  HWY_INLINE void operator()(D d, const std::byte* const* in, std::byte* const* out) const {
    store(E{}, d, hn::Mul(load(E{}, d, in[0]), hn::Set(d, factor)), out[0]);
  }
};

template <class E>
struct AddScaled {
  typename E::Compute factor;
  template <class D>
  HWY_INLINE void operator()(D d, const std::byte* const* in, std::byte* const* out) const {
    const auto product_added =
        hn::MulAdd(hn::Set(d, factor), load(E{}, d, in[1]), load(E{}, d, in[0]));
    store(E{}, d, product_added, out[0]);
  }
};

void scale_any(base::DType dtype, std::byte* dst, const std::byte* src, std::size_t count,
               double factor) {
  visit_float(dtype, [&](auto element) HWY_ATTR {
    using E = decltype(element);
    const auto rounded = static_cast<typename E::Compute>(factor);
    for_each_vector<E, E>(Streams<1, 1>{{src}, {dst}}, count, Scale<E>{rounded});
  });
}

void add_scaled_any(base::DType dtype, std::byte* dst, const std::byte* src, std::size_t count,
                    double factor) {
  visit_float(dtype, [&](auto element) HWY_ATTR {
    using E = decltype(element);
    const auto rounded = static_cast<typename E::Compute>(factor);
    for_each_vector<E, E>(Streams<2, 1>{{dst, src}, {dst}}, count, AddScaled<E>{rounded});
  });
}

}  // namespace
}  // namespace gearshift::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace gearshift::kernels {
namespace {
HWY_EXPORT(scale_any);
HWY_EXPORT(add_scaled_any);

template <typename T>
void divide_integers(base::Bytes data, int n) {
  for (std::size_t offset = 0; offset < data.size(); offset += sizeof(T)) {
    T value;
    std::memcpy(&value, data.data() + offset, sizeof(value));
    value = static_cast<T>(value / n);
    std::memcpy(data.data() + offset, &value, sizeof(value));
  }
}
}  // namespace

void scale_copy(base::DType dtype, base::Bytes dst, base::ConstBytes src, double factor) {
  if (nothing_to_do(dst, src)) return;
  HWY_DYNAMIC_DISPATCH(scale_any)(dtype, dst.data(), src.data(), count_of(dtype, dst), factor);
}

void scale(base::DType dtype, base::Bytes data, double factor) {
  scale_copy(dtype, data, data, factor);
}

void add_scaled(base::DType dtype, base::Bytes dst, base::ConstBytes src, double factor) {
  if (nothing_to_do(dst, src)) return;
  HWY_DYNAMIC_DISPATCH(add_scaled_any)
  (dtype, dst.data(), src.data(), count_of(dtype, dst), factor);
}

void divide(base::DType dtype, base::Bytes data, int n) {
  assert(n > 0);
  if (nothing_to_do(data) || n == 1) return;
  switch (dtype) {
    case base::DType::kI8:
      return divide_integers<std::int8_t>(data, n);
    case base::DType::kU8:
      return divide_integers<std::uint8_t>(data, n);
    case base::DType::kI32:
      return divide_integers<std::int32_t>(data, n);
    case base::DType::kI64:
      return divide_integers<std::int64_t>(data, n);
    default:
      return scale(dtype, data, 1.0 / n);
  }
}

}  // namespace gearshift::kernels
#endif  // HWY_ONCE
