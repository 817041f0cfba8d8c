#include "gearshift/base/fd.h"

#include <unistd.h>

#include "base/forks.h"

namespace gearshift::base {

Fd::Fd(int fd) : fd_(fd) { keep_from_children(fd_); }

Fd Fd::inherited(int fd) {
  Fd owner;
  owner.fd_ = fd;
  return owner;
}

Fd& Fd::operator=(Fd&& other) noexcept {
  if (this != &other) {
    reset();
    fd_ = std::exchange(other.fd_, -1);
  }
  return *this;
}

void Fd::reset() {
  const int closing = std::exchange(fd_, -1);
  if (closing < 0) return;
  // First: as soon as it is closed, another thread may own a descriptor of this number.
  give_to_children(closing);
  ::close(closing);
}

}  // namespace gearshift::base
