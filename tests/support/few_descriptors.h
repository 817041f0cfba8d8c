#pragma once

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <ctime>
#include <functional>
#include <thread>

#include "gearshift/base/log.h"

namespace gearshift::testing {

/// As many descriptors as this process has now, and `more`, while this lives.
class FewDescriptors {
 public:
  explicit FewDescriptors(rlim_t more) {
    ::getrlimit(RLIMIT_NOFILE, &before_);
    const int next = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    ::close(next);
    rlimit low = before_;
    low.rlim_cur = static_cast<rlim_t>(next) + more;
    ::setrlimit(RLIMIT_NOFILE, &low);
  }
  ~FewDescriptors() { ::setrlimit(RLIMIT_NOFILE, &before_); }
  FewDescriptors(const FewDescriptors&) = delete;
  FewDescriptors& operator=(const FewDescriptors&) = delete;

 private:
  rlimit before_{};
};

/// Seconds of processor time that this process takes in half a second in which it may have no
/// descriptors at all, not even those again that it gives up. Begins with `meanwhile`.
inline double busy_without_descriptors(const std::function<void()>& meanwhile) {
  rlimit before{};
  ::getrlimit(RLIMIT_NOFILE, &before);
  const rlimit none{0, before.rlim_max};
  const base::LogLevel level = base::log_level();
  base::set_log_level(base::LogLevel::kError);  // UBSan needs descriptors for its look at streams
  ::setrlimit(RLIMIT_NOFILE, &none);
  meanwhile();
  const std::clock_t begun = std::clock();
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  const std::clock_t busy = std::clock() - begun;
  ::setrlimit(RLIMIT_NOFILE, &before);
  base::set_log_level(level);
  return static_cast<double>(busy) / CLOCKS_PER_SEC;
}

}  // namespace gearshift::testing
