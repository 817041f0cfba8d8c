#include "sim/stacks.h"

#include <sys/mman.h>

#include <new>

#include "sim/address_sanitizer.h"

namespace gearshift::sim {

/// Stacks that are asked for together.
constexpr std::size_t kSlab = 16;

std::size_t Stacks::slab_bytes() const { return kSlab * (kGuardBytes + bytes_); }

Stacks::~Stacks() {
  for (std::byte* slab : slabs_) {
    forget_frames(slab, slab_bytes());
    munmap(slab, slab_bytes());
  }
}

std::byte* Stacks::take() {
  if (free_.empty()) {
    // Room first: what is mapped must not be lost.
    slabs_.reserve(slabs_.size() + 1);
    free_.reserve((slabs_.size() + 1) * kSlab);
    void* const memory = mmap(nullptr, slab_bytes(), PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    slabs_.push_back(static_cast<std::byte*>(memory));
    for (std::size_t i = kSlab; i-- > 0;) {
      std::byte* const guard = slabs_.back() + i * (kGuardBytes + bytes_);
      if (guarded_ < kGuarded && mprotect(guard, kGuardBytes, PROT_NONE) == 0) ++guarded_;
      free_.push_back(guard + kGuardBytes);
    }
  }
  std::byte* const stack = free_.back();
  free_.pop_back();
  return stack;
}

void Stacks::give_back(std::byte* stack) {
  forget_frames(stack, bytes_);
  free_.push_back(stack);
}

}  // namespace gearshift::sim
