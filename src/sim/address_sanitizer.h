#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#define GEARSHIFT_ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define GEARSHIFT_ADDRESS_SANITIZER 1
#endif
#endif
#ifndef GEARSHIFT_ADDRESS_SANITIZER
#define GEARSHIFT_ADDRESS_SANITIZER 0
#endif

#if GEARSHIFT_ADDRESS_SANITIZER
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace gearshift::sim {

inline constexpr bool kAddressSanitizer = GEARSHIFT_ADDRESS_SANITIZER != 0;

/// Functions that never returned leave marks of their frames, which mean nothing to who uses the
/// memory next.
inline void forget_frames([[maybe_unused]] void* memory, [[maybe_unused]] std::size_t bytes) {
#if GEARSHIFT_ADDRESS_SANITIZER
  __asan_unpoison_memory_region(memory, bytes);
#endif
}

/// What AddressSanitizer has to know of a stack, to be told of each switch.
class StackMarks {
 public:
  StackMarks() = default;
  StackMarks([[maybe_unused]] const void* bottom, [[maybe_unused]] std::size_t bytes) {
#if GEARSHIFT_ADDRESS_SANITIZER
    bottom_ = bottom;
    bytes_ = bytes;
#endif
  }

  /// The stack that is in use is about to be left for `to`.
  void leave([[maybe_unused]] const StackMarks& to) {
#if GEARSHIFT_ADDRESS_SANITIZER
    // Also where nobody will come back: frames that are not yet left may lie in the fake stack.
    __sanitizer_start_switch_fiber(&fake_stack_, to.bottom_, to.bytes_);
#endif
  }
  /// This stack is in use now, instead of `from`; whose place is known then, if it is a thread's.
  void arrive([[maybe_unused]] StackMarks& from) {
#if GEARSHIFT_ADDRESS_SANITIZER
    __sanitizer_finish_switch_fiber(fake_stack_, &from.bottom_, &from.bytes_);
#endif
  }

#if GEARSHIFT_ADDRESS_SANITIZER
 private:
  void* fake_stack_ = nullptr;
  const void* bottom_ = nullptr;
  std::size_t bytes_ = 0;
#endif
};

}  // namespace gearshift::sim
