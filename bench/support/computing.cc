#include "support/computing.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <stdexcept>
#include <string>
#include <system_error>

namespace gearshift::bench {
namespace {

[[noreturn]] void compute(pid_t parent) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(0);  // it was gone before it could be watched
  for (;;) asm volatile("");              // not a loop that may be taken away
}

}  // namespace

Computing::Computing(std::size_t count) {
  const pid_t parent = ::getpid();
  for (std::size_t i = 0; i < count; ++i) {
    const pid_t process = ::fork();
    if (process == 0) compute(parent);
    if (process < 0) {
      const std::string why = std::system_category().message(errno);
      end();
      throw std::runtime_error("no process that computes: " + why);
    }
    processes_.push_back(process);
  }
}

Computing::~Computing() { end(); }

void Computing::end() {
  for (const pid_t process : processes_) {
    ::kill(process, SIGKILL);
    while (::waitpid(process, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
  processes_.clear();
}

}  // namespace gearshift::bench
