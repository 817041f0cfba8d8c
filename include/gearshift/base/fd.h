#pragma once

#include <utility>

namespace gearshift::base {

/// Owns a file descriptor, and closes it in the end. Negative numbers stand for none.
///
/// Children that are forked meanwhile (the workers of a DataLoader, say) do not get it: they find
/// /dev/null at its number. They would hold a connection open when this process dies, or keep a
/// port or a lock. Descriptors beyond 65535 are theirs, too.
///
/// Thread-safety: one user at a time, but `get` and the test from anywhere while nobody moves it.
class Fd {
 public:
  Fd() = default;
  /// Takes `fd` over. It should be close-on-exec: programs that children become have no handler
  /// that takes it from them.
  explicit Fd(int fd);
  /// Takes over what forked children are to have, too: memory that they share, say.
  static Fd inherited(int fd);
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept;
  ~Fd() { reset(); }

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  /// Closes it now.
  void reset();

 private:
  int fd_ = -1;
};

}  // namespace gearshift::base
