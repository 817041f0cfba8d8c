#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <functional>

namespace gearshift::testing {

/// What `f` returns, as an exit status, in a child of a fork. -1 when the child dies over it.
inline int in_child(const std::function<int()>& f) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(f());
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace gearshift::testing
