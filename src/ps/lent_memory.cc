#include "ps/lent_memory.h"

#include <algorithm>
#include <utility>

#include "gearshift/transport/shared_region.h"
#include "ps/links.h"

namespace gearshift::ps {
namespace {

/// Slices begin at cache lines.
std::size_t padded(std::size_t bytes) { return (bytes + 63) / 64 * 64; }

}  // namespace

/// Lives for as long as a buffer in it.
struct LentMemory::Block {
  std::unique_ptr<transport::SharedRegion> region;
  std::vector<std::unique_ptr<transport::LentRegion>> loans;  ///< end before the region
};

std::size_t bytes_of_all(const std::vector<Slice>& slices) {
  std::size_t bytes = 0;
  for (const Slice& slice : slices) bytes += padded(slice.bytes);
  return bytes;
}

std::vector<transport::Connection*> links_that_share(const group::Group& group, int workers) {
  std::vector<transport::Connection*> links;
  for (int r = 0; r < workers; ++r) {
    transport::Connection& link = link_to(group, base::Rank(r));
    if (link.capabilities().shared_regions) links.push_back(&link);
  }
  return links;
}

SharedBuffer LentMemory::allocate(std::size_t size) {
  const auto again = free_->find(size);
  if (again != free_->end()) {
    base::Buffer memory = std::move(again->second);
    free_->erase(again);
    return returning(std::move(memory));
  }
  const std::size_t taken = padded(size);
  if (!readers_.empty() && size > 0 && (!block_ || used_ + taken > block_->region->size())) {
    block_ = make_block(std::max(block_bytes_, taken));
    used_ = 0;
  }
  if (!block_ || size == 0) return std::make_shared<base::Buffer>(size);
  const base::Bytes memory = base::slice(block_->region->view(), used_, size);
  used_ += taken;
  return returning(base::Buffer::borrow(memory, block_));
}

/// A buffer that comes back to the free ones when nobody holds it any more.
SharedBuffer LentMemory::returning(base::Buffer memory) const {
  const auto give_back = [free = std::weak_ptr<Free>(free_)](base::Buffer* buffer) {
    const std::unique_ptr<base::Buffer> owner(buffer);
    if (const auto list = free.lock()) list->emplace(buffer->size(), std::move(*buffer));
  };
  return SharedBuffer(new base::Buffer(std::move(memory)), give_back);
}

/// Null where there is no such memory: then answers are copied.
std::shared_ptr<LentMemory::Block> LentMemory::make_block(std::size_t bytes) const {
  auto region = transport::SharedRegion::create(bytes);
  if (!region) return nullptr;
  auto block = std::make_shared<Block>();
  block->region = std::move(*region);
  for (transport::Connection* link : readers_) {
    // A link that is broken lends nothing, and needs nothing either.
    if (auto loan = link->lend(*block->region)) block->loans.push_back(std::move(*loan));
  }
  return block;
}

}  // namespace gearshift::ps
