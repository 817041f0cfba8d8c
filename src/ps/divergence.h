#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace gearshift::ps {

/// Notices that the loss runs away, or comes back: compares the smoothed loss with that of the
/// first commits. Not thread-safe.
class DivergenceGuard {
 public:
  /// A loss of `factor` times the early loss is too much; 0: none is.
  explicit DivergenceGuard(double factor) : factor_(factor) {}

  /// Takes the next loss (NaN: none). What is wrong, if anything.
  std::optional<std::string> note(double loss);
  /// Once, when what had been learned is lost: the smoothed loss had fallen by a third and more, by
  /// far more than batches differ, and for some time has been what it was at first.
  std::optional<std::string> collapse();

 private:
  void look_for_collapse();

  double factor_;
  std::int64_t count_ = 0;
  double early_ = 0;     ///< mean over the first commits
  double smoothed_ = 0;  ///< exponential mean over all after them
  double variance_ = 0;  ///< of single losses, likewise
  double least_ = 0;     ///< of the smoothed ones
  int back_ = 0;         ///< commits since it is back where it began
};

}  // namespace gearshift::ps
