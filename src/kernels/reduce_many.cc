#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/reduce_many.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "gearshift/kernels/reduce.h"
#include "kernels/native_f16.h"
#include "kernels/simd-inl.h"
#include "kernels/two-inl.h"

HWY_BEFORE_NAMESPACE();
namespace gearshift::kernels::HWY_NAMESPACE {
namespace {

// How sources become a result: first(k = 0), then next(k) in order, then last. `scale` and
// `factors` are those of ManyArrays.

template <class E, class Op>
struct Plainly {
  template <class D>
  HWY_INLINE auto first(D d, const std::byte* from) const {
    return load(E{}, d, from);
  }
  template <class D, class V>
  HWY_INLINE V next(D d, V sum, const std::byte* from, std::size_t) const {
    return combine<Op>(d, sum, load(E{}, d, from));
  }
  template <class D, class V>
  HWY_INLINE V last(D, V sum) const {
    return sum;
  }
};

struct NoFactors {};

template <class E, class Op, class Factors>
struct Scaled {
  using T = typename E::Compute;
  Factors factors;
  T scale;

  template <class D>
  HWY_INLINE auto term(D d, const std::byte* from, std::size_t k) const {
    const auto value = load(E{}, d, from);
    if constexpr (std::is_same_v<Factors, NoFactors>) {
      return value;
    } else {
      return times(value, hn::Set(d, static_cast<T>(factors[k])));
    }
  }
  template <class D>
  HWY_INLINE auto first(D d, const std::byte* from) const {
    return term(d, from, 0);
  }
  template <class D, class V>
  HWY_INLINE V next(D d, V sum, const std::byte* from, std::size_t k) const {
    return combine<Op>(d, sum, term(d, from, k));
  }
  template <class D, class V>
  HWY_INLINE V last(D d, V sum) const {
    return times(sum, hn::Set(d, scale));
  }
};

struct Sum {
  template <class D, class V>
  static HWY_INLINE V combine(D, V a, V b) {
    return hn::Add(a, b);
  }
};
/// The same sum, by the units that multiply: those that add are, on some processors, also those
/// that convert f16, and busy.
struct SumByMultiplyAdd {
  template <class D, class V>
  static HWY_INLINE V combine(D d, V a, V b) {
    return hn::MulAdd(a, hn::Set(d, 1), b);
  }
};
struct Product {
  template <class D, class V>
  static HWY_INLINE V combine(D, V a, V b) {
    return hn::Mul(a, b);
  }
};
struct Min {
  template <class D, class V>
  static HWY_INLINE V combine(D d, V a, V b) {
    return min_or_nan(d, a, b);
  }
};
struct Max {
  template <class D, class V>
  static HWY_INLINE V combine(D d, V a, V b) {
    return max_or_nan(d, a, b);
  }
};

/// The elements of one vector at `offset`, from all sources to all destinations.
template <class E, class D, class Fold>
HWY_INLINE void fold_one(D d, const ManyArrays& m, std::size_t offset, const Fold& fold) {
  auto sum = fold.first(d, m.sources[0] + offset);
  for (std::size_t k = 1; k < m.sources.size(); ++k) {
    sum = fold.next(d, sum, m.sources[k] + offset, k);
  }
  const auto packed = pack(E{}, d, fold.last(d, sum));
  for (std::byte* to : m.destinations) store_packed(E{}, d, packed, to + offset);
}

/// Four vectors at a time, so that loads of several sources are under way at once.
template <class E, class D, class Fold>
HWY_INLINE void fold_four(D d, const ManyArrays& m, std::size_t offset, const Fold& fold) {
  const std::size_t step = hn::Lanes(d) * E::kSize;
  const std::byte* from = m.sources[0] + offset;
  auto a = fold.first(d, from);
  auto b = fold.first(d, from + step);
  auto c = fold.first(d, from + 2 * step);
  auto e = fold.first(d, from + 3 * step);
  for (std::size_t k = 1; k < m.sources.size(); ++k) {
    from = m.sources[k] + offset;
    a = fold.next(d, a, from, k);
    b = fold.next(d, b, from + step, k);
    c = fold.next(d, c, from + 2 * step, k);
    e = fold.next(d, e, from + 3 * step, k);
  }
  const auto packed_a = pack(E{}, d, fold.last(d, a));
  const auto packed_b = pack(E{}, d, fold.last(d, b));
  const auto packed_c = pack(E{}, d, fold.last(d, c));
  const auto packed_e = pack(E{}, d, fold.last(d, e));
  for (std::byte* to : m.destinations) {
    to += offset;
    store_packed(E{}, d, packed_a, to);
    store_packed(E{}, d, packed_b, to + step);
    store_packed(E{}, d, packed_c, to + 2 * step);
    store_packed(E{}, d, packed_e, to + 3 * step);
  }
}

/// Less than a vector at the end: through padded copies, so that each element sees the same
/// instructions as in the middle.
template <class E, class D, class Fold>
void fold_rest(D d, const ManyArrays& m, std::size_t offset, const Fold& fold) {
  constexpr std::size_t kMaxBytes = hn::MaxLanes(D()) * sizeof(typename E::Compute);
  const std::size_t bytes = m.bytes - offset;
  std::byte padded[kMaxBytes] = {};
  std::memcpy(padded, m.sources[0] + offset, bytes);
  auto sum = fold.first(d, padded);
  for (std::size_t k = 1; k < m.sources.size(); ++k) {
    std::memcpy(padded, m.sources[k] + offset, bytes);
    sum = fold.next(d, sum, padded, k);
  }
  store_packed(E{}, d, pack(E{}, d, fold.last(d, sum)), padded);
  for (std::byte* to : m.destinations) std::memcpy(to + offset, padded, bytes);
}

template <class E, class Fold>
void fold_all(const ManyArrays& m, const Fold& fold) {
  const typename TagOf<E>::Type d;
  const std::size_t step = hn::Lanes(d) * E::kSize;
  std::size_t offset = 0;
  for (; m.bytes - offset >= 4 * step; offset += 4 * step) fold_four<E>(d, m, offset, fold);
  for (; m.bytes - offset >= step; offset += step) fold_one<E>(d, m, offset, fold);
  if (offset < m.bytes) fold_rest<E>(d, m, offset, fold);
}

/// How many vectors a loop over few arrays takes at a time: one of 16-bit floats keeps the units
/// that convert busy by itself.
template <class E>
constexpr std::size_t kAtOnce = 1;
template <typename T>
constexpr std::size_t kAtOnce<Plain<T>> = 2;

/// The elements of one vector at `offset`, from all sources.
template <class E, std::size_t kFrom, class D, class Fold>
HWY_INLINE auto folded(D d, const std::array<const std::byte*, kFrom>& from, std::size_t offset,
                       const Fold& fold) {
  auto sum = fold.first(d, from[0] + offset);
  for (std::size_t k = 1; k < kFrom; ++k) sum = fold.next(d, sum, from[k] + offset, k);
  return pack(E{}, d, fold.last(d, sum));
}

/// kFrom sources, kTo destinations. With their numbers known a vector takes so few instructions
/// that the processor itself has several under way, and mixes loads, sums and stores better than
/// when they come by fours.
template <class E, std::size_t kFrom, std::size_t kTo, class Fold>
void fold_few(const ManyArrays& m, const Fold fold) {
  const typename TagOf<E>::Type d;
  const std::size_t step = hn::Lanes(d) * E::kSize;
  std::array<const std::byte*, kFrom> from;
  std::array<std::byte*, kTo> to;
  std::copy_n(m.sources.begin(), kFrom, from.begin());
  std::copy_n(m.destinations.begin(), kTo, to.begin());
  const std::size_t bytes = m.bytes;
  std::size_t offset = 0;
  if constexpr (kAtOnce<E> == 2) {
    for (; bytes - offset >= 2 * step; offset += 2 * step) {
      const auto first = folded<E>(d, from, offset, fold);
      const auto second = folded<E>(d, from, offset + step, fold);
      for (std::byte* p : to) store_packed(E{}, d, first, p + offset);
      for (std::byte* p : to) store_packed(E{}, d, second, p + offset + step);
    }
  }
  for (; bytes - offset >= step; offset += step) {
    const auto packed = folded<E>(d, from, offset, fold);
    for (std::byte* p : to) store_packed(E{}, d, packed, p + offset);
  }
  if (offset < bytes) fold_rest<E>(d, m, offset, fold);
}

template <class E, class Op>
void fold_floats(const ManyArrays& m) {
  if (m.factors.empty() && m.scale == 1) return fold_all<E>(m, Plainly<E, Op>{});
  const auto scale = static_cast<typename E::Compute>(m.scale);
  if (m.factors.empty()) return fold_all<E>(m, Scaled<E, Op, NoFactors>{{}, scale});
  fold_all<E>(m, Scaled<E, Op, const double*>{m.factors.data(), scale});
}

template <class E, std::size_t kFrom, std::size_t kTo, class Op>
void fold_few_floats(const ManyArrays& m) {
  if (m.factors.empty() && m.scale == 1) return fold_few<E, kFrom, kTo>(m, Plainly<E, Op>{});
  const auto scale = static_cast<typename E::Compute>(m.scale);
  if (m.factors.empty()) return fold_few<E, kFrom, kTo>(m, Scaled<E, Op, NoFactors>{{}, scale});
  std::array<double, kFrom> factors;
  std::copy_n(m.factors.begin(), kFrom, factors.begin());
  fold_few<E, kFrom, kTo>(m, Scaled<E, Op, std::array<double, kFrom>>{factors, scale});
}

/// Whether a NaN in the sum can only be quiet and have the few bits of one in a 16-bit array:
/// additions and multiplications make it quiet, but a NaN among the factors may have more bits.
bool nan_stays_short(const ManyArrays& m) {
  constexpr auto is_nan = [](double x) { return std::isnan(x); };
  return m.sources.size() > 1 && !is_nan(m.scale) && std::ranges::none_of(m.factors, is_nan);
}

/// The numbers of arrays that two to four ranks of one host have, and sums of two.
template <class E, class Op>
void sum_of_kind(const ManyArrays& m) {
  const std::size_t from = m.sources.size(), to = m.destinations.size();
  if (from == 2 && to == 1) return fold_few_floats<E, 2, 1, Op>(m);
  if (from == 2 && to == 2) return fold_few_floats<E, 2, 2, Op>(m);
  if constexpr (kAtOnce<E> == 2) {
    if (from == 3 && to == 3) return fold_few_floats<E, 3, 3, Op>(m);
    if (from == 4 && to == 4) return fold_few_floats<E, 4, 4, Op>(m);
  }
  fold_floats<E, Op>(m);
}

template <class E>
void sum_floats(const ManyArrays& m) {
  using Kind = typename Summed<E>::Kind;
  if constexpr (std::is_same_v<Kind, E>) {
    sum_of_kind<E, Sum>(m);
  } else {
    if (HWY_TARGET == HWY_AVX3 && std::is_same_v<E, F16> && sum_f16_natively(m)) return;
    using Op = std::conditional_t<std::is_same_v<E, F16>, SumByMultiplyAdd, Sum>;
    nan_stays_short(m) ? sum_of_kind<Kind, Op>(m) : fold_floats<E, Sum>(m);
  }
}

template <class E>
void by_op(base::ReduceOp op, const ManyArrays& m) {
  switch (op) {
    case base::ReduceOp::kSum:
    case base::ReduceOp::kMean:
      return sum_floats<E>(m);
    case base::ReduceOp::kMin:
      return fold_floats<E, Min>(m);
    case base::ReduceOp::kMax:
      return fold_floats<E, Max>(m);
    case base::ReduceOp::kProduct:
      return fold_floats<E, Product>(m);
  }
}

void floats_many(base::DType dtype, base::ReduceOp op, const ManyArrays& m) {
  visit_float(dtype, [&](auto element) HWY_ATTR { by_op<decltype(element)>(op, m); });
}

template <typename T>
void integers_many(base::ReduceOp op, const ManyArrays& m) {
  using Unsigned = std::make_unsigned_t<T>;
  if (op == base::ReduceOp::kMin) return fold_all<Plain<T>>(m, Plainly<Plain<T>, Min>{});
  if (op == base::ReduceOp::kMax) return fold_all<Plain<T>>(m, Plainly<Plain<T>, Max>{});
  fold_all<Plain<Unsigned>>(m, Plainly<Plain<Unsigned>, Sum>{});
}

void many_any(base::DType dtype, base::ReduceOp op, const ManyArrays& m) {
  switch (dtype) {
    case base::DType::kI8:
      return integers_many<std::int8_t>(op, m);
    case base::DType::kU8:
      return integers_many<std::uint8_t>(op, m);
    case base::DType::kI32:
      return integers_many<std::int32_t>(op, m);
    case base::DType::kI64:
      return integers_many<std::int64_t>(op, m);
    default:
      return floats_many(dtype, op, m);
  }
}

}  // namespace
}  // namespace gearshift::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace gearshift::kernels {
HWY_EXPORT(many_any);

namespace {

bool is_integer(base::DType dtype) {
  return dtype == base::DType::kI8 || dtype == base::DType::kU8 || dtype == base::DType::kI32 ||
         dtype == base::DType::kI64;
}

/// Products of integers, which not all instruction sets have, two arrays at a time; in blocks that
/// stay in cache. The first destination may be any of the sources, hence the block of its own.
void multiply_integers(base::DType dtype, const ManyArrays& m) {
  constexpr std::size_t kBlock = 4096;
  std::byte block[kBlock];
  for (std::size_t offset = 0; offset < m.bytes; offset += kBlock) {
    const base::Bytes product(block, std::min(kBlock, m.bytes - offset));
    std::memcpy(block, m.sources[0] + offset, product.size());
    for (const std::byte* source : m.sources.subspan(1)) {
      reduce(dtype, base::ReduceOp::kProduct, product, {source + offset, product.size()});
    }
    for (std::byte* to : m.destinations) std::memcpy(to + offset, block, product.size());
  }
}

}  // namespace

void reduce_many(base::DType dtype, base::ReduceOp op, const ManyArrays& arrays) {
  if (arrays.bytes == 0 || arrays.sources.empty() || arrays.destinations.empty()) return;
  assert(arrays.bytes % base::size_of(dtype) == 0 && "views must hold whole elements");
  assert(arrays.factors.empty() || arrays.factors.size() == arrays.sources.size());
  if (is_integer(dtype) && op == base::ReduceOp::kProduct) {
    multiply_integers(dtype, arrays);
  } else {
    HWY_DYNAMIC_DISPATCH(many_any)(dtype, op, arrays);
  }
}

}  // namespace gearshift::kernels
#endif  // HWY_ONCE
