#pragma once

#include <memory>
#include <vector>

#include "gearshift/group/group.h"
#include "gearshift/ps/layout.h"
#include "ps/outbox.h"

namespace gearshift::ps {

/// Memory of a shard that the workers of its host read in place (Connection::lend), so that answers
/// are copied once: by the worker, to where it wants them. Elsewhere, ordinary memory. Not
/// thread-safe.
class LentMemory {
 public:
  /// Comes in blocks of `block_bytes`.
  LentMemory(const group::Group& group, int workers, std::size_t block_bytes);
  SharedBuffer allocate(std::size_t size);

 private:
  struct Block;
  std::shared_ptr<Block> make_block(std::size_t bytes) const;

  std::vector<transport::Connection*> readers_;  ///< links that share memory
  const std::size_t block_bytes_;
  std::shared_ptr<Block> block_;  ///< the newest
  std::size_t used_ = 0;          ///< of it
};

/// What all slices need as blocks of a LentMemory.
std::size_t bytes_of_all(const std::vector<Slice>& slices);

}  // namespace gearshift::ps
