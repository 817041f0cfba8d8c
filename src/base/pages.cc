#include "gearshift/base/pages.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstdint>
#include <string>
#include <system_error>

namespace gearshift::base {
namespace {

constexpr std::size_t kHuge = std::size_t{2} << 20;

}  // namespace

Result<std::unique_ptr<Pages>> Pages::create(std::size_t bytes, InChild in_child) {
  if (bytes == 0) return std::unique_ptr<Pages>(new Pages({}, {}));
  const std::size_t room = bytes < kHuge ? 0 : kHuge - 1;  // to begin where a huge page does
  void* const at = bytes > SIZE_MAX - room ? MAP_FAILED
                                           : ::mmap(nullptr, bytes + room, PROT_READ | PROT_WRITE,
                                                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) {
    const int why = bytes > SIZE_MAX - room ? ENOMEM : errno;
    return Error(ErrorCode::kIo, "cannot get " + std::to_string(bytes) +
                                     " bytes of memory: " + std::system_category().message(why));
  }
  const Bytes mapped(static_cast<std::byte*>(at), bytes + room);
  // Advice that an older kernel does not know changes nothing but what it costs.
  std::size_t begin = 0;
  if (room > 0) {
    begin = (kHuge - reinterpret_cast<std::uintptr_t>(at) % kHuge) % kHuge;
    static_cast<void>(::madvise(mapped.data() + begin, bytes, MADV_HUGEPAGE));
  }
  if (in_child == InChild::kZeros) {
    static_cast<void>(::madvise(mapped.data(), mapped.size(), MADV_WIPEONFORK));
  }
  return std::unique_ptr<Pages>(new Pages(mapped, mapped.subspan(begin, bytes)));
}

Pages::~Pages() {
  if (!mapped_.empty()) ::munmap(mapped_.data(), mapped_.size());
}

}  // namespace gearshift::base
