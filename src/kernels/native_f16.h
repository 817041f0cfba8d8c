#pragma once

#include "gearshift/kernels/reduce.h"

namespace gearshift::kernels {

/// Sums two float16 arrays by the processor's own arithmetic on float16 (AVX512-FP16), as fast as
/// float32 and with the bits that float32 gives. A sum of two that is rounded to float32 and then
/// to float16 is that sum rounded once, for float32 has 24 >= 2 * 11 + 2 bits (S. Figueroa, "When
/// is double rounding innocuous?", 1995). Factors that are equal powers of two, as those of a mean
/// over two ranks, are exact unless the result is the smallest normal number or below it, or the
/// plain sum overflows: such vectors are summed through float32.
///
/// False, and nothing done, where the processor cannot, or the arrays are others than these.
bool sum_f16_natively(const ManyArrays& arrays);

}  // namespace gearshift::kernels
