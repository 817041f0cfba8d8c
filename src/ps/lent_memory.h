#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "gearshift/group/group.h"
#include "gearshift/ps/layout.h"
#include "ps/outbox.h"

namespace gearshift::ps {

/// Memory of a shard that the workers of its host read in place (Connection::lend), so that answers
/// are copied once: by the worker, to where it wants them. Elsewhere, ordinary memory. What is
/// given back is used again, since lending new memory takes a while. Not thread-safe.
class LentMemory {
 public:
  /// `readers`: links that share memory. Comes in blocks of `block_bytes`.
  LentMemory(std::vector<transport::Connection*> readers, std::size_t block_bytes)
      : readers_(std::move(readers)), block_bytes_(block_bytes) {}
  SharedBuffer allocate(std::size_t size);

 private:
  struct Block;
  using Free = std::multimap<std::size_t, base::Buffer>;  ///< by size

  std::shared_ptr<Block> make_block(std::size_t bytes) const;
  SharedBuffer returning(base::Buffer memory) const;

  const std::vector<transport::Connection*> readers_;
  const std::size_t block_bytes_;
  std::shared_ptr<Block> block_;  ///< the newest
  std::size_t used_ = 0;          ///< of it
  const std::shared_ptr<Free> free_ = std::make_shared<Free>();
};

/// The links to those of the first `workers` ranks that share memory with this one.
std::vector<transport::Connection*> links_that_share(const group::Group& group, int workers);
/// What all slices need as blocks of a LentMemory.
std::size_t bytes_of_all(const std::vector<Slice>& slices);

}  // namespace gearshift::ps
