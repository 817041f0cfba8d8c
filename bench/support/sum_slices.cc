#include "support/sum_slices.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "support/sum_slices.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace gearshift::bench::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

/// `kRanks` is a constant, so that the loop over the arrays is unrolled.
template <int kRanks>
void sum_of(float* const* arrays, std::size_t begin, std::size_t end) {
  const hn::ScalableTag<float> d;
  const std::size_t lanes = hn::Lanes(d);
  std::size_t i = begin;
  for (; i + lanes <= end; i += lanes) {
    auto sum = hn::LoadU(d, arrays[0] + i);
    for (int r = 1; r < kRanks; ++r) sum = hn::Add(sum, hn::LoadU(d, arrays[r] + i));
    for (int r = 0; r < kRanks; ++r) hn::StoreU(sum, d, arrays[r] + i);
  }
  for (; i < end; ++i) {
    float sum = 0;
    for (int r = 0; r < kRanks; ++r) sum += arrays[r][i];
    for (int r = 0; r < kRanks; ++r) arrays[r][i] = sum;
  }
}

void sum_slices(float* const* arrays, int ranks, std::size_t begin, std::size_t end) {
  switch (ranks) {
    case 1:
      return;
    case 2:
      return sum_of<2>(arrays, begin, end);
    case 3:
      return sum_of<3>(arrays, begin, end);
    case 4:
      return sum_of<4>(arrays, begin, end);
    case 8:
      return sum_of<8>(arrays, begin, end);
    default:
      break;
  }
  for (std::size_t i = begin; i < end; ++i) {
    float sum = 0;
    for (int r = 0; r < ranks; ++r) sum += arrays[r][i];
    for (int r = 0; r < ranks; ++r) arrays[r][i] = sum;
  }
}

}  // namespace
}  // namespace gearshift::bench::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace gearshift::bench {

HWY_EXPORT(sum_slices);

void sum_slices(float* const* arrays, int ranks, std::size_t begin, std::size_t end) {
  HWY_DYNAMIC_DISPATCH(sum_slices)(arrays, ranks, begin, end);
}

const char* instruction_set() {
  // The best target has the lowest bit.
  const auto supported = hwy::SupportedTargets() & HWY_TARGETS;
  return hwy::TargetName(supported & -supported);
}

}  // namespace gearshift::bench
#endif
