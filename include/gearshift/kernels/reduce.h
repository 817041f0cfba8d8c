#pragma once

#include <cstdint>
#include <span>

#include "gearshift/base/bytes.h"
#include "gearshift/base/dtype.h"

namespace gearshift::kernels {

/// dst[i] = op(dst[i], src[i]) over all elements. float16 and bfloat16 are combined in float32
/// and rounded to nearest even once. kMean combines like kSum: the caller divides at the end with
/// `scale` or `divide`. Integers wrap around like NumPy's. The views may be unaligned; they must
/// not overlap partially. The minimum and maximum of anything and a NaN are NaN, as in NumPy. If
/// any view is a phantom, nothing happens. Vectorised, dispatched at run time. Thread-safety: all
/// functions here are pure functions of their memory.
void reduce(base::DType dtype, base::ReduceOp op, base::Bytes dst, base::ConstBytes src);

/// dst[i] = op(a[i], b[i]).
void reduce_into(base::DType dtype, base::ReduceOp op, base::Bytes dst, base::ConstBytes a,
                 base::ConstBytes b);

/// Arrays of equal size that are combined at once, `bytes` bytes each. Sources and destinations may
/// be the same memory, at the same place; views may be unaligned.
struct ManyArrays {
  std::span<const std::byte* const> sources{};  ///< at least one
  std::span<std::byte* const> destinations{};
  std::size_t bytes = 0;
  /// Float types only, one per source: each source is multiplied by its factor first. Empty: by 1.
  std::span<const double> factors{};
  /// Float types only: the result is multiplied by this last.
  double scale = 1;
};

/// destination[i] = scale · op over k of (factor_k · source_k[i]), the same in each destination, in
/// one pass over memory and in the order of the sources. float16 and bfloat16 are combined in
/// float32 and rounded once. kMean combines like kSum.
void reduce_many(base::DType dtype, base::ReduceOp op, const ManyArrays& arrays);

/// data[i] *= factor; float types only (f16/bf16 through float32).
void scale(base::DType dtype, base::Bytes data, double factor);

/// dst[i] = src[i] * factor; float types only.
void scale_copy(base::DType dtype, base::Bytes dst, base::ConstBytes src, double factor);

/// dst[i] += src[i] * factor, as a fused multiply-add where the processor has it; float types only.
void add_scaled(base::DType dtype, base::Bytes dst, base::ConstBytes src, double factor);

/// Ends a mean: floats are multiplied by 1/n, integers divided and truncated towards zero.
void divide(base::DType dtype, base::Bytes data, int n);

/// Sum of squares in float64, and whether every element is finite. Float types only. The sum has
/// the same bits on every processor.
struct NormPart {
  double sum_of_squares = 0;
  bool all_finite = true;
};
NormPart norm_part(base::DType dtype, base::ConstBytes data);

/// A 64-bit hash (XXH64, seed 0) for comparing replicas; 0 for a phantom.
std::uint64_t hash64(base::ConstBytes data);

}  // namespace gearshift::kernels
