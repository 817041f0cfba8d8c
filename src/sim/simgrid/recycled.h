#pragma once

#include <cstddef>
#include <memory>
#include <new>

#include "sim/address_sanitizer.h"

namespace gearshift::sim {

/// Memory for objects of one size, of which a simulation makes and drops millions: what was dropped
/// last is used next. It stays for the rest of the process, which is that of one simulation.
/// AddressSanitizer gets to see each of them. Not thread-safe, like the scheduler of a simulation.
template <std::size_t kBytes>
class Recycled {
 public:
  static void* take() {
    if (kAddressSanitizer || free_ == nullptr) return ::operator new(kBytes);
    Free* const first = free_;
    free_ = first->next;
    return first;
  }
  static void give_back(void* memory) {
    if (kAddressSanitizer) return ::operator delete(memory);
    free_ = new (memory) Free{free_};
  }

 private:
  struct Free {
    Free* next;
  };
  static_assert(kBytes >= sizeof(Free));
  static inline Free* free_ = nullptr;
};

/// The same for std::allocate_shared.
template <typename T>
struct RecyclingAllocator {
  using value_type = T;
  RecyclingAllocator() = default;
  template <typename Other>
  explicit RecyclingAllocator(const RecyclingAllocator<Other>&) {}
  T* allocate(std::size_t) { return static_cast<T*>(Recycled<sizeof(T)>::take()); }
  void deallocate(T* memory, std::size_t) { Recycled<sizeof(T)>::give_back(memory); }
  bool operator==(const RecyclingAllocator&) const { return true; }
};

}  // namespace gearshift::sim
