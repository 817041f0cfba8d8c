#pragma once

#include <cstddef>
#include <vector>

namespace gearshift::sim {

/// Memory for stacks of equal size, which are given back and used again. Pages that are never
/// touched cost nothing.
///
/// Below each stack lies memory that nobody may touch, so that a stack that overflows ends the
/// process there and then. Such a guard costs two of the mappings that the kernel grants a process
/// (vm.max_map_count, normally 65,530). Half of them are left for everybody else: stacks beyond
/// `kGuarded`, or for which the kernel refuses it, go without.
class Stacks {
 public:
  static constexpr std::size_t kGuarded = 16'000;
  /// Untouched, so it may be large: no frame steps over it. A multiple of any page.
  static constexpr std::size_t kGuardBytes = std::size_t{64} << 10;

  /// So many bytes each, a multiple of the page.
  explicit Stacks(std::size_t bytes) : bytes_(bytes) {}
  /// Whatever is left on the stacks is forgotten.
  ~Stacks();
  Stacks(const Stacks&) = delete;
  Stacks& operator=(const Stacks&) = delete;

  /// Its lowest address. Throws std::bad_alloc.
  std::byte* take();
  void give_back(std::byte* stack);
  std::size_t bytes() const { return bytes_; }

 private:
  std::size_t slab_bytes() const;

  const std::size_t bytes_;
  std::vector<std::byte*> slabs_;
  std::vector<std::byte*> free_;
  std::size_t guarded_ = 0;
};

}  // namespace gearshift::sim
