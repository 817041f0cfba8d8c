#include "gearshift/kernels/reduce.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/reduce.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <type_traits>

#include "kernels/simd-inl.h"
#include "kernels/views.h"

HWY_BEFORE_NAMESPACE();
namespace gearshift::kernels::HWY_NAMESPACE {
namespace {

struct Sum {
  template <class D, class V>
  HWY_INLINE V operator()(D, V a, V b) const {
    return hn::Add(a, b);
  }
};
struct Product {
  template <class D, class V>
  HWY_INLINE V operator()(D, V a, V b) const {
    return hn::Mul(a, b);
  }
};
struct Min {
  template <class D, class V>
  HWY_INLINE V operator()(D d, V a, V b) const {
    return min_or_nan(d, a, b);
  }
};
struct Max {
  template <class D, class V>
  HWY_INLINE V operator()(D d, V a, V b) const {
    return max_or_nan(d, a, b);
  }
};

template <class E, class Op>
struct Combine {
  Op op;
  template <class D>
  HWY_INLINE void operator()(D d, const std::byte* const* in, std::byte* const* out) const {
    store(E{}, d, op(d, load(E{}, d, in[0]), load(E{}, d, in[1])), out[0]);
  }
};

using Operands = Streams<2, 1>;

template <class E, class Op>
void combine(const Operands& operands, std::size_t count) {
  for_each_vector<E, E>(operands, count, Combine<E, Op>{});
}

// Multiplies where the instruction sets have no multiplication of such lanes.
template <typename Unsigned>
void multiply_plain(const Operands& operands, std::size_t count) {
  for (std::size_t offset = 0; offset < count * sizeof(Unsigned); offset += sizeof(Unsigned)) {
    Unsigned a, b;
    std::memcpy(&a, operands.in[0] + offset, sizeof(a));
    std::memcpy(&b, operands.in[1] + offset, sizeof(b));
    a = static_cast<Unsigned>(a * b);
    std::memcpy(operands.out[0] + offset, &a, sizeof(a));
  }
}

template <class E>
void combine_floats(base::ReduceOp op, const Operands& operands, std::size_t count) {
  switch (op) {
    case base::ReduceOp::kSum:
    case base::ReduceOp::kMean:
      return combine<E, Sum>(operands, count);
    case base::ReduceOp::kMin:
      return combine<E, Min>(operands, count);
    case base::ReduceOp::kMax:
      return combine<E, Max>(operands, count);
    case base::ReduceOp::kProduct:
      return combine<E, Product>(operands, count);
  }
}

template <typename T>
void combine_integers(base::ReduceOp op, const Operands& operands, std::size_t count) {
  // Sums and products wrap around, and their low bits are the same for unsigned operands.
  using Unsigned = std::make_unsigned_t<T>;
  switch (op) {
    case base::ReduceOp::kSum:
    case base::ReduceOp::kMean:
      return combine<Plain<Unsigned>, Sum>(operands, count);
    case base::ReduceOp::kMin:
      return combine<Plain<T>, Min>(operands, count);
    case base::ReduceOp::kMax:
      return combine<Plain<T>, Max>(operands, count);
    case base::ReduceOp::kProduct:
      if constexpr (sizeof(T) == 4) {
        return combine<Plain<Unsigned>, Product>(operands, count);
      } else {
        return multiply_plain<Unsigned>(operands, count);
      }
  }
}

void combine_any(base::DType dtype, base::ReduceOp op, const std::byte* a, const std::byte* b,
                 std::byte* dst, std::size_t count) {
  const Operands operands{{a, b}, {dst}};
  switch (dtype) {
    case base::DType::kI8:
      return combine_integers<std::int8_t>(op, operands, count);
    case base::DType::kU8:
      return combine_integers<std::uint8_t>(op, operands, count);
    case base::DType::kI32:
      return combine_integers<std::int32_t>(op, operands, count);
    case base::DType::kI64:
      return combine_integers<std::int64_t>(op, operands, count);
    default:
      visit_float(dtype, [&](auto element)
                             HWY_ATTR { combine_floats<decltype(element)>(op, operands, count); });
  }
}

}  // namespace
}  // namespace gearshift::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace gearshift::kernels {
HWY_EXPORT(combine_any);

namespace {
/// What reduce_many has a faster way for.
bool is_half_sum(base::DType dtype, base::ReduceOp op) {
  return (dtype == base::DType::kF16 || dtype == base::DType::kBF16) &&
         (op == base::ReduceOp::kSum || op == base::ReduceOp::kMean);
}
}  // namespace

void reduce_into(base::DType dtype, base::ReduceOp op, base::Bytes dst, base::ConstBytes a,
                 base::ConstBytes b) {
  if (nothing_to_do(dst, a, b)) return;
  if (is_half_sum(dtype, op)) {
    const std::byte* const from[] = {a.data(), b.data()};
    std::byte* const to[] = {dst.data()};
    return reduce_many(dtype, op, {from, to, dst.size()});
  }
  HWY_DYNAMIC_DISPATCH(combine_any)
  (dtype, op, a.data(), b.data(), dst.data(), count_of(dtype, dst));
}

void reduce(base::DType dtype, base::ReduceOp op, base::Bytes dst, base::ConstBytes src) {
  reduce_into(dtype, op, dst, dst, src);
}

}  // namespace gearshift::kernels
#endif  // HWY_ONCE
