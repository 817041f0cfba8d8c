#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <vector>

#include "gearshift/base/result.h"

namespace gearshift::strategy {

/// Reduced losses by epoch: the memory of the switch policies. Not thread-safe.
class LossHistory {
 public:
  /// Adds losses (sum over samples) of an epoch that may still be running. One that is not finite
  /// is the latest, as NaN, but no part of its epoch's.
  void add(std::int64_t epoch, double loss_sum, double samples) {
    if (!(samples > 0)) return;
    if (!std::isfinite(loss_sum)) {
      latest_ = std::numeric_limits<double>::quiet_NaN();
      return;
    }
    latest_ = loss_sum / samples;
    Sums& sums = open_[epoch];
    sums.loss += loss_sum;
    sums.samples += samples;
  }
  /// No more losses of epochs before this one will come.
  void close_before(std::int64_t epoch) {
    while (!open_.empty() && open_.begin()->first < epoch) {
      const Sums& sums = open_.begin()->second;
      finished_.push_back(sums.loss / sums.samples);
      open_.erase(open_.begin());
    }
  }
  /// Another loss than the one added last is the latest: that of all workers.
  void set_latest(double loss) { latest_ = loss; }
  double latest() const { return latest_; }
  const std::vector<double>& finished() const { return finished_; }

  std::vector<std::byte> pack() const;
  base::Status unpack(const std::vector<std::byte>& bytes);

 private:
  struct Sums {
    double loss = 0;
    double samples = 0;
  };
  std::map<std::int64_t, Sums> open_;
  std::vector<double> finished_;
  double latest_ = std::numeric_limits<double>::quiet_NaN();
};

}  // namespace gearshift::strategy
