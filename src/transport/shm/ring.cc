#include "transport/shm/ring.h"

#include <algorithm>
#include <cstring>

namespace gearshift::transport::shm {

std::optional<std::size_t> RingWriter::space() const {
  const std::uint64_t used = published_.load(std::memory_order_relaxed) - control_->consumed.load();
  if (used > capacity_) return std::nullopt;
  return capacity_ - static_cast<std::size_t>(used);
}

void RingWriter::put(base::ConstBytes bytes) {
  if (bytes.empty()) return;
  const std::size_t at = staged_ & (capacity_ - 1);
  const std::size_t first = std::min(bytes.size(), capacity_ - at);
  std::memcpy(data_ + at, bytes.data(), first);
  if (first < bytes.size()) std::memcpy(data_, bytes.data() + first, bytes.size() - first);
  staged_ += bytes.size();
}

void RingWriter::publish() {
  published_.store(staged_, std::memory_order_relaxed);
  control_->produced.store(staged_);
}

std::optional<std::size_t> RingReader::readable() const {
  const std::uint64_t ready = control_->produced.load() - taken_.load(std::memory_order_relaxed);
  if (ready > capacity_) return std::nullopt;
  return static_cast<std::size_t>(ready);
}

void RingReader::take(base::Bytes into) {
  if (into.empty()) return;
  const std::uint64_t taken = taken_.load(std::memory_order_relaxed);
  const std::size_t at = taken & (capacity_ - 1);
  const std::size_t first = std::min(into.size(), capacity_ - at);
  std::memcpy(into.data(), data_ + at, first);
  if (first < into.size()) std::memcpy(into.data() + first, data_, into.size() - first);
  taken_.store(taken + into.size(), std::memory_order_relaxed);
}

void RingReader::release() { control_->consumed.store(taken_.load(std::memory_order_relaxed)); }

}  // namespace gearshift::transport::shm
