#include "kernels/native_f16.h"

#include <cmath>
#include <cstddef>

#if defined(__x86_64__) && (defined(__clang__) ? __clang_major__ >= 14 : __GNUC__ >= 12)
#include <immintrin.h>

// For these functions alone: the file is compiled for processors without it, too.
#define GEARSHIFT_F16_TARGET __attribute__((target("avx512fp16,avx512bw,avx512vl")))

namespace gearshift::kernels {
namespace {

constexpr std::size_t kVector = 64;
// Where a product with the scale is a zero, the plain sum was so small that it was exact.
constexpr double kLeastScale = 0x1p-11, kLargestScale = 0x1p11;

bool supported() {
  static const bool answer = __builtin_cpu_supports("avx512fp16") != 0;
  return answer;
}

bool is_power_of_two(double x) {
  int exponent = 0;
  return std::frexp(x, &exponent) == 0.5;
}

/// What the sum is multiplied by; 0 where that is not one power of two for both arrays.
double scale_of_both(const ManyArrays& m) {
  const bool plain = m.factors.empty();
  if (!plain && m.factors[0] != m.factors[1]) return 0;
  const double factor = plain ? 1 : m.factors[0];
  if (!is_power_of_two(factor) || !is_power_of_two(m.scale)) return 0;
  const double both = factor * m.scale;
  const auto in_range = [](double x) { return x >= kLeastScale && x <= kLargestScale; };
  return in_range(factor) && in_range(m.scale) && in_range(both) ? both : 0;
}

GEARSHIFT_F16_TARGET inline __m256i half_through_f32(__m256i a, __m256i b, __m512 scale) {
  const __m512 sum = _mm512_add_ps(_mm512_cvtph_ps(a), _mm512_cvtph_ps(b));
  return _mm512_cvtps_ph(_mm512_mul_ps(sum, scale), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

GEARSHIFT_F16_TARGET __m512i through_f32(__m512i a, __m512i b, float scale) {
  const __m512 factor = _mm512_set1_ps(scale);
  const __m256i lower =
      half_through_f32(_mm512_castsi512_si256(a), _mm512_castsi512_si256(b), factor);
  const __m256i upper =
      half_through_f32(_mm512_extracti64x4_epi64(a, 1), _mm512_extracti64x4_epi64(b, 1), factor);
  return _mm512_inserti64x4(_mm512_castsi256_si512(lower), upper, 1);
}

template <bool kScaled>
GEARSHIFT_F16_TARGET inline __m512i sum_of(__m512i a, __m512i b, __m512h scale, float scale_f32) {
  const __m512h sum = _mm512_add_ph(_mm512_castsi512_ph(a), _mm512_castsi512_ph(b));
  if constexpr (kScaled) {
    const __m512h scaled = _mm512_mul_ph(sum, scale);
    // The smallest normal number, too, may be a product that was rounded.
    constexpr int kInfinite = 0x18, kSubnormal = 0x20;
    const __m512h smallest = _mm512_set1_ph(static_cast<_Float16>(0x1p-14));
    const __mmask32 rounded = _mm512_fpclass_ph_mask(scaled, kInfinite | kSubnormal) |
                              _mm512_cmp_ph_mask(_mm512_abs_ph(scaled), smallest, _CMP_EQ_OQ);
    if (rounded != 0) [[unlikely]]
      return through_f32(a, b, scale_f32);
    return _mm512_castph_si512(scaled);
  } else {
    return _mm512_castph_si512(sum);
  }
}

template <bool kScaled, bool kTwo>
GEARSHIFT_F16_TARGET void sum_all(const ManyArrays& m, double scale_f64) {
  const std::byte *const a = m.sources[0], *const b = m.sources[1];
  std::byte *const to = m.destinations[0], *const also = m.destinations[kTwo ? 1 : 0];
  const auto scale_f32 = static_cast<float>(scale_f64);
  const __m512h scale = _mm512_set1_ph(static_cast<_Float16>(scale_f32));
  std::size_t offset = 0;
  for (; m.bytes - offset >= kVector; offset += kVector) {
    const __m512i sum = sum_of<kScaled>(_mm512_loadu_si512(a + offset),
                                        _mm512_loadu_si512(b + offset), scale, scale_f32);
    _mm512_storeu_si512(to + offset, sum);
    if constexpr (kTwo) _mm512_storeu_si512(also + offset, sum);
  }
  if (offset == m.bytes) return;
  const auto rest = static_cast<__mmask32>((1ULL << ((m.bytes - offset) / 2)) - 1);
  const __m512i sum = sum_of<kScaled>(_mm512_maskz_loadu_epi16(rest, a + offset),
                                      _mm512_maskz_loadu_epi16(rest, b + offset), scale, scale_f32);
  _mm512_mask_storeu_epi16(to + offset, rest, sum);
  if constexpr (kTwo) _mm512_mask_storeu_epi16(also + offset, rest, sum);
}

}  // namespace

bool sum_f16_natively(const ManyArrays& m) {
  const std::size_t destinations = m.destinations.size();
  if (m.sources.size() != 2 || destinations > 2 || !supported()) return false;
  const double scale = scale_of_both(m);
  if (scale == 0) return false;
  if (scale == 1) {
    destinations == 2 ? sum_all<false, true>(m, scale) : sum_all<false, false>(m, scale);
  } else {
    destinations == 2 ? sum_all<true, true>(m, scale) : sum_all<true, false>(m, scale);
  }
  return true;
}

}  // namespace gearshift::kernels

#else

namespace gearshift::kernels {
bool sum_f16_natively(const ManyArrays&) { return false; }
}  // namespace gearshift::kernels

#endif
