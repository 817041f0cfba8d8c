#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <type_traits>
#include <vector>

namespace gearshift::base {

/// A view of memory that somebody else owns.
///
/// A view with `data() == nullptr` and `size() > 0` is a *phantom*: it stands for so many bytes
/// whose values do not matter (simulated messages). Kernels and transports skip its contents.
using Bytes = std::span<std::byte>;
using ConstBytes = std::span<const std::byte>;

inline bool is_phantom(ConstBytes b) { return b.data() == nullptr && !b.empty(); }

/// The bytes [offset, offset + size) of a view; works for phantoms, too.
inline Bytes slice(Bytes b, std::size_t offset, std::size_t size) {
  return {b.data() == nullptr ? nullptr : b.data() + offset, size};
}
inline ConstBytes slice(ConstBytes b, std::size_t offset, std::size_t size) {
  return {b.data() == nullptr ? nullptr : b.data() + offset, size};
}

/// Zeroes memory; skips phantoms.
inline void zero(Bytes b) {
  if (b.data() != nullptr) std::memset(b.data(), 0, b.size());
}

/// The bytes of one trivially copyable object.
template <typename T>
requires std::is_trivially_copyable_v<T> ConstBytes bytes_of(const T& object) {
  return {reinterpret_cast<const std::byte*>(&object), sizeof(T)};
}
template <typename T>
requires std::is_trivially_copyable_v<T> Bytes writable_bytes_of(T& object) {
  return {reinterpret_cast<std::byte*>(&object), sizeof(T)};
}
/// The bytes of a contiguous array.
template <typename T>
ConstBytes bytes_of(std::span<T> items) {
  return std::as_bytes(items);
}

/// Memory that this owns, 64-byte-aligned, not initialised; or memory of somebody else that lives
/// for as long as this does (see `borrow`). Movable.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::size_t size);
  /// An owner of no memory that claims `size` bytes (see phantom above).
  static Buffer phantom(std::size_t size);
  static Buffer copy_of(ConstBytes source);
  /// A view that keeps its `owner` (not null) alive. Whether it may be written is between the owner
  /// and who made this: lent messages, for one, may only be read.
  static Buffer borrow(Bytes memory, std::shared_ptr<const void> owner);

  std::byte* data() { return memory_.get(); }
  const std::byte* data() const { return memory_.get(); }
  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  bool is_borrowed() const { return owner_ != nullptr; }
  Bytes view() { return {memory_.get(), size_}; }
  ConstBytes view() const { return {memory_.get(), size_}; }
  /// Shortens the view; the memory stays.
  void truncate(std::size_t size) { size_ = size < size_ ? size : size_; }

 private:
  struct Free {
    Free() noexcept : owned(true) {}
    explicit Free(bool o) noexcept : owned(o) {}
    void operator()(std::byte* p) const;
    bool owned;
  };
  std::shared_ptr<const void> owner_;
  std::unique_ptr<std::byte[], Free> memory_;
  std::size_t size_ = 0;
};

}  // namespace gearshift::base
