#pragma once

#include <string>

namespace gearshift::kernels {

/// The instruction set that the kernels use on this processor ("AVX2", "AVX3", "NEON" …), as
/// run-time dispatch has chosen it. Highway's names; AVX3 is AVX-512. Thread-safe.
std::string simd_target();

}  // namespace gearshift::kernels
