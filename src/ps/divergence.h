#pragma once

#include <optional>
#include <string>

namespace gearshift::ps {

/// Notices that the loss runs away: compares the smoothed loss with that of the first commits.
/// Not thread-safe.
class DivergenceGuard {
 public:
  /// A loss of `factor` times the early loss is too much; 0: none is.
  explicit DivergenceGuard(double factor) : factor_(factor) {}

  /// Takes the next loss (NaN: none). What is wrong, if anything.
  std::optional<std::string> note(double loss);

 private:
  double factor_;
  int count_ = 0;
  double early_ = 0;     ///< mean over the first commits
  double smoothed_ = 0;  ///< exponential mean over all after them
};

}  // namespace gearshift::ps
