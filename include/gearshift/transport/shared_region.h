#pragma once

#include <cstddef>
#include <memory>
#include <utility>

#include "gearshift/base/bytes.h"
#include "gearshift/base/fd.h"
#include "gearshift/base/result.h"

namespace gearshift::transport {

/// Memory that processes of one host can map together. Backed by a memfd: it has no name, so
/// nothing can be left behind, however a process dies. Movable handle; unmaps when destroyed.
class SharedRegion {
 public:
  /// New zeroed memory of `size` bytes (rounded up to pages). kIo when the kernel refuses.
  static base::Result<std::unique_ptr<SharedRegion>> create(std::size_t size);
  /// Maps what another process created. Closes `fd`, which the mapping outlives: a process that has
  /// mapped memory of many others does not hold as many descriptors.
  static base::Result<std::unique_ptr<SharedRegion>> map(base::Fd fd, std::size_t size);
  ~SharedRegion();
  SharedRegion(const SharedRegion&) = delete;
  SharedRegion& operator=(const SharedRegion&) = delete;

  base::Bytes view() const { return {data_, size_}; }
  std::size_t size() const { return size_; }
  /// Of a region that this process created, to be passed on; -1 of one that it mapped.
  int fd() const { return fd_.get(); }

 private:
  SharedRegion(base::Fd fd, std::byte* data, std::size_t size)
      : fd_(std::move(fd)), data_(data), size_(size) {}
  base::Fd fd_;
  std::byte* data_;
  std::size_t size_;
};

}  // namespace gearshift::transport
