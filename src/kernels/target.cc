#include "gearshift/kernels/target.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/target.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace gearshift::kernels::HWY_NAMESPACE {
namespace {

const char* name_of_target() { return hwy::TargetName(HWY_TARGET); }

}  // namespace
}  // namespace gearshift::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace gearshift::kernels {
namespace {
HWY_EXPORT(name_of_target);
}  // namespace

std::string simd_target() { return HWY_DYNAMIC_DISPATCH(name_of_target)(); }

}  // namespace gearshift::kernels
#endif  // HWY_ONCE
