#pragma once

#include <sys/types.h>

#include <cstddef>
#include <vector>

namespace gearshift::bench {

/// Processes of this program's session that compute and do nothing else, as those that load data
/// do: from the beginning of this object's life to its end, or that of the thread that made it.
class Computing {
 public:
  /// Throws std::runtime_error when there are no more processes to have.
  explicit Computing(std::size_t count);
  ~Computing();
  Computing(const Computing&) = delete;
  Computing& operator=(const Computing&) = delete;

 private:
  void end();

  std::vector<pid_t> processes_;
};

}  // namespace gearshift::bench
