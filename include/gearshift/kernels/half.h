#pragma once

#include <bit>
#include <cstdint>

#include "gearshift/base/bytes.h"
#include "gearshift/base/dtype.h"

namespace gearshift::kernels {

// The two 16-bit floats, one value at a time: IEEE 754 binary16 (kF16) and bfloat16 (kBF16), as bit
// patterns. Widening is exact. Narrowing rounds to nearest, ties to even, overflows to infinity and
// keeps subnormals; a NaN stays a quiet NaN with its sign and the upper bits of its payload, which
// is what the hardware conversions do.

constexpr float f16_to_float(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
  const std::uint32_t exponent = (half >> 10) & 0x1fu;
  const std::uint32_t mantissa = half & 0x3ffu;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(magnitude) | sign);
  }
  if (exponent == 0x1f) {
    const std::uint32_t quiet = mantissa == 0 ? 0 : 0x400000u;
    return std::bit_cast<float>(sign | 0x7f800000u | quiet | (mantissa << 13));
  }
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

constexpr std::uint16_t f16_from_float(float value) {
  constexpr auto round_shift = [](std::uint32_t x, std::uint32_t shift) {
    return (x + ((1u << (shift - 1)) - 1) + ((x >> shift) & 1u)) >> shift;
  };
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  std::uint32_t half = 0;
  if (magnitude > 0x7f800000u) {  // NaN
    half = 0x7e00u | ((magnitude >> 13) & 0x3ffu);
  } else if (magnitude >= 0x477ff000u) {  // from 65520, halfway between 65504 and 65536
    half = 0x7c00u;
  } else if (magnitude >= 0x38800000u) {  // from 2^-14: normal; a carry reaches the exponent
    half = round_shift(magnitude - (112u << 23), 13);
  } else if (magnitude >= 0x33000000u) {  // from 2^-25: subnormal, counted in units of 2^-24
    half = round_shift((magnitude & 0x7fffffu) | 0x800000u, 126 - (magnitude >> 23));
  }
  return static_cast<std::uint16_t>(sign | half);
}

constexpr float bf16_to_float(std::uint16_t half) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(half) << 16);
}

constexpr std::uint16_t bf16_from_float(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>((bits >> 16) | 0x40u);
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

/// Whole slices: float32, multiplied by `factor` in float32, to `to` (kF16 or kBF16), and back. The
/// number of elements is that of the 16-bit view. The views may be unaligned and must not overlap.
/// Phantoms are skipped.
void narrow(base::DType to, base::Bytes halves, base::ConstBytes floats, double factor = 1);
void widen(base::DType from, base::Bytes floats, base::ConstBytes halves);

}  // namespace gearshift::kernels
