#include "gearshift/base/bytes.h"

#include <new>
#include <utility>

namespace gearshift::base {
namespace {
constexpr std::align_val_t kAlignment{64};
}

void Buffer::Free::operator()(std::byte* p) const {
  if (owned) ::operator delete[](p, kAlignment);
}

Buffer::Buffer(std::size_t size) : size_(size) {
  if (size > 0) memory_.reset(static_cast<std::byte*>(::operator new[](size, kAlignment)));
}

Buffer Buffer::phantom(std::size_t size) {
  Buffer b;
  b.size_ = size;
  return b;
}

Buffer Buffer::copy_of(ConstBytes source) {
  if (is_phantom(source)) return phantom(source.size());
  Buffer b(source.size());
  if (!source.empty()) std::memcpy(b.data(), source.data(), source.size());
  return b;
}

Buffer Buffer::borrow(Bytes memory, std::shared_ptr<const void> owner) {
  Buffer b;
  b.owner_ = std::move(owner);
  b.memory_ = decltype(b.memory_)(memory.data(), Free{false});
  b.size_ = memory.size();
  return b;
}

}  // namespace gearshift::base
