#include "ps/divergence.h"

#include <algorithm>
#include <cmath>
#include <sstream>

namespace gearshift::ps {
namespace {
constexpr int kWindow = 20;
/// An exponential mean with the centre of mass of a mean over kWindow values.
constexpr double kWeight = 2.0 / (kWindow + 1);
/// What one loss counts at most, as a multiple of the loss that is too much: a few that stand out
/// from a small early loss are no trend, of which half a window is enough.
constexpr double kMost = 2;
}  // namespace

std::optional<std::string> DivergenceGuard::note(double loss) {
  if (std::isnan(loss)) return std::nullopt;
  if (std::isinf(loss)) return "the loss is not finite";
  if (factor_ <= 0) return std::nullopt;
  ++count_;
  if (count_ <= kWindow) {
    early_ += (loss - early_) / count_;
    smoothed_ = early_;
    return std::nullopt;
  }
  const double counted = early_ > 0 ? std::min(loss, kMost * factor_ * early_) : loss;
  smoothed_ += kWeight * (counted - smoothed_);
  if (count_ < 2 * kWindow || early_ <= 0 || smoothed_ <= factor_ * early_) return std::nullopt;
  std::ostringstream text;
  text << "the smoothed loss rose from " << early_ << " to " << smoothed_ << ", more than "
       << factor_ << " times";
  return text.str();
}

}  // namespace gearshift::ps
