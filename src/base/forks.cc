#include "base/forks.h"

#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace gearshift::base {
namespace {

constexpr int kBits = 64;
/// A bit for each descriptor that children do not get. No lock: it could be held during a fork.
std::array<std::atomic<std::uint64_t>, 65536 / kBits> kept;

std::atomic<std::uint64_t>* word_of(int descriptor) {
  if (descriptor < 0) return nullptr;
  const auto index = static_cast<std::size_t>(descriptor / kBits);
  return index < kept.size() ? &kept[index] : nullptr;
}

std::uint64_t bit_of(int descriptor) { return std::uint64_t{1} << (descriptor % kBits); }

/// The numbers stay taken: objects that own them may close them in the child, too.
void let_go_in_child() {
  const int nothing = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  for (std::size_t i = 0; i < kept.size(); ++i) {
    for (std::uint64_t left = kept[i].exchange(0); left != 0; left &= left - 1) {
      const int descriptor = static_cast<int>(i) * kBits + std::countr_zero(left);
      if (nothing >= 0) ::dup3(nothing, descriptor, O_CLOEXEC);
    }
  }
  if (nothing >= 0) ::close(nothing);
}

}  // namespace

void keep_from_children(int descriptor) {
  static const int registered = ::pthread_atfork(nullptr, nullptr, &let_go_in_child);
  auto* const word = word_of(descriptor);
  if (word != nullptr && registered == 0) word->fetch_or(bit_of(descriptor));
}

void give_to_children(int descriptor) {
  if (auto* const word = word_of(descriptor)) word->fetch_and(~bit_of(descriptor));
}

}  // namespace gearshift::base
