#include "collectives/scratch.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "gearshift/base/pages.h"

namespace gearshift::collectives {
namespace {

/// What a thread may keep between operations.
constexpr std::size_t kMaxKeptBytes = 4 * 1024 * 1024;
constexpr std::size_t kMaxKeptBuffers = 2;
/// From here on memory is worth a huge page (2 MiB).
constexpr std::size_t kHalfAPage = 1024 * 1024;

/// Buffers are taken out while in use, so tasks that share a thread (fibers) never share a buffer.
std::vector<base::Buffer>& cache() {
  thread_local std::vector<base::Buffer> buffers;
  return buffers;
}

base::Buffer take(std::size_t bytes) {
  auto& buffers = cache();
  for (auto it = buffers.begin(); it != buffers.end(); ++it) {
    if (it->size() < bytes) continue;
    base::Buffer found = std::move(*it);
    buffers.erase(it);
    return found;
  }
  if (bytes >= kHalfAPage) {
    if (auto pages =
            base::Pages::create(std::max(bytes, 2 * kHalfAPage), base::Pages::InChild::kZeros)) {
      const std::shared_ptr<base::Pages> owner = std::move(*pages);
      return base::Buffer::borrow(owner->view(), owner);
    }
  }
  return base::Buffer(bytes);
}

void give_back(base::Buffer buffer) {
  if (buffer.data() == nullptr || buffer.size() > kMaxKeptBytes) return;
  auto& buffers = cache();
  if (buffers.size() == kMaxKeptBuffers) buffers.erase(buffers.begin());
  buffers.push_back(std::move(buffer));
}

}  // namespace

Scratch::Scratch(std::size_t bytes, bool phantom)
    : memory_(phantom ? base::Buffer::phantom(bytes) : take(bytes)), bytes_(bytes) {}

Scratch::~Scratch() { give_back(std::move(memory_)); }

}  // namespace gearshift::collectives
