#pragma once

#include <cstddef>

namespace gearshift::bench {

/// Elements [begin, end) of all `ranks` arrays become their sum, with the widest instructions that
/// the processor has. Arrays are aligned to 64 bytes.
void sum_slices(float* const* arrays, int ranks, std::size_t begin, std::size_t end);

/// The name of those instructions, such as "AVX2".
const char* instruction_set();

}  // namespace gearshift::bench
