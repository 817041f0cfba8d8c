#pragma once

#include <cstddef>

#include "gearshift/base/bytes.h"

namespace gearshift::collectives {

/// Working memory of one operation. Memory comes from, and returns to, a small cache of the calling
/// thread: fresh pages cost more than the messages that they would hold. Phantom data gets phantom
/// scratch.
class Scratch {
 public:
  Scratch(std::size_t bytes, bool phantom);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  base::Bytes view() { return base::slice(memory_.view(), 0, bytes_); }

 private:
  base::Buffer memory_;
  std::size_t bytes_;
};

}  // namespace gearshift::collectives
