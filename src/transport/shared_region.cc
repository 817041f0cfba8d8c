#include "gearshift/transport/shared_region.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <system_error>

namespace gearshift::transport {
namespace {

base::Error system_error(const std::string& what) {
  return {base::ErrorCode::kIo, what + ": " + std::system_category().message(errno)};
}

/// A size that cannot change: a mapping of a file that shrinks kills its reader with SIGBUS.
constexpr int kFixedSize = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

std::size_t page_bytes() { return static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)); }

std::byte* map_shared(int fd, std::size_t size) {
  void* at = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  return at == MAP_FAILED ? nullptr : static_cast<std::byte*>(at);
}

}  // namespace

base::Result<std::unique_ptr<SharedRegion>> SharedRegion::create(std::size_t size) {
  const std::size_t page = page_bytes();
  if (size > SIZE_MAX / 2) {
    return base::Error(base::ErrorCode::kInvalidArgument,
                       "a shared region of " + std::to_string(size) + " bytes is impossible");
  }
  const std::size_t rounded = std::max(page, (size + page - 1) / page * page);
  // Children have the memory anyhow.
  base::Fd fd = base::Fd::inherited(::memfd_create("gearshift", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) return system_error("memfd_create");
  std::byte* data = nullptr;
  if (::ftruncate(fd.get(), static_cast<off_t>(rounded)) == 0 &&
      ::fcntl(fd.get(), F_ADD_SEALS, kFixedSize) == 0) {
    data = map_shared(fd.get(), rounded);
  }
  if (data == nullptr) {
    base::Error error =
        system_error("cannot make a shared region of " + std::to_string(rounded) + " bytes");
    if (errno == EFBIG) error.message += " (`ulimit -f` is the limit for memory of this kind, too)";
    return error;
  }
  return std::unique_ptr<SharedRegion>(new SharedRegion(std::move(fd), data, rounded));
}

base::Result<std::unique_ptr<SharedRegion>> SharedRegion::map(base::Fd fd, std::size_t size) {
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) return system_error("a shared region's descriptor");
  const int seals = ::fcntl(fd.get(), F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0) {
    return base::Error(base::ErrorCode::kProtocol, "the descriptor is not a region of fixed size");
  }
  if (size == 0 || static_cast<std::uint64_t>(status.st_size) < size) {
    return base::Error(
        base::ErrorCode::kProtocol,
        "the region has " + std::to_string(status.st_size) + " bytes, not " + std::to_string(size));
  }
  std::byte* data = map_shared(fd.get(), size);
  if (data == nullptr) return system_error("cannot map a shared region");
  return std::unique_ptr<SharedRegion>(new SharedRegion({}, data, size));
}

SharedRegion::~SharedRegion() { ::munmap(data_, size_); }

}  // namespace gearshift::transport
