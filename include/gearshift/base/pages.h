#pragma once

#include <cstddef>
#include <memory>

#include "gearshift/base/bytes.h"
#include "gearshift/base/result.h"

namespace gearshift::base {

/// Zeroed memory of this process alone, for large arrays: on huge pages (2 MiB) where the kernel
/// grants them to who asks (`transparent_hugepage/enabled` is `madvise` or `always`), which saves
/// page faults and misses of the translation cache, the kernel's own in sockets among them.
class Pages {
 public:
  /// What a forked child has in its place.
  enum class InChild {
    kCopy,   ///< a copy, like all memory: this process pays for it page by page, when it writes
    kZeros,  ///< for what no child looks at; costs nothing
  };

  /// kIo when the kernel refuses. Nothing is taken from the machine until it is written.
  static Result<std::unique_ptr<Pages>> create(std::size_t bytes,
                                               InChild in_child = InChild::kCopy);
  ~Pages();
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;

  /// Begins at a page; at a huge one when it is as large as one.
  Bytes view() const { return memory_; }

 private:
  Pages(Bytes mapped, Bytes memory) : mapped_(mapped), memory_(memory) {}
  const Bytes mapped_, memory_;
};

}  // namespace gearshift::base
