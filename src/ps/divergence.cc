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
/// Parts of the early loss: learned something, and lost it.
constexpr double kLearned = 0.67;
constexpr double kLost = 0.95;
/// Standard errors of a mean over kWindow losses that it must have fallen by, too. Late in training
/// batches differ by half of their small loss, and among thousands of such means one is a third
/// below the first. What is learned at the beginning is far more.
constexpr double kBeyondChance = 8;
/// Commits for which it has to be lost.
constexpr int kForGood = 3 * kWindow;
}  // namespace

std::optional<std::string> DivergenceGuard::note(double loss) {
  if (std::isnan(loss)) return std::nullopt;
  if (std::isinf(loss)) return "the loss is not finite";
  if (factor_ <= 0) return std::nullopt;
  ++count_;
  if (count_ <= kWindow) {
    const double off = loss - early_;
    const auto count = static_cast<double>(count_);
    early_ += off / count;
    variance_ += (off * (loss - early_) - variance_) / count;
    least_ = smoothed_ = early_;
    return std::nullopt;
  }
  const double counted = early_ > 0 ? std::min(loss, kMost * factor_ * early_) : loss;
  const double off = counted - smoothed_;
  smoothed_ += kWeight * off;
  variance_ = (1 - kWeight) * (variance_ + kWeight * off * off);
  look_for_collapse();
  if (count_ < 2 * kWindow || early_ <= 0 || smoothed_ <= factor_ * early_) return std::nullopt;
  std::ostringstream text;
  text << "the smoothed loss rose from " << early_ << " to " << smoothed_ << ", more than "
       << factor_ << " times (divergence_factor; with 0 no rise ends the job)";
  return text.str();
}

void DivergenceGuard::look_for_collapse() {
  least_ = std::min(least_, smoothed_);
  const double chance = kBeyondChance * std::sqrt(variance_ / kWindow);
  const bool learned = least_ <= kLearned * early_ && early_ - least_ >= chance;
  const bool lost = early_ > 0 && learned && smoothed_ >= kLost * early_;
  // Beyond, it has been told.
  if (back_ <= kForGood) back_ = lost ? back_ + 1 : 0;
}

std::optional<std::string> DivergenceGuard::collapse() {
  if (back_ != kForGood) return std::nullopt;
  ++back_;
  std::ostringstream text;
  text << "the smoothed loss had fallen from " << early_ << " to " << least_ << " and is back at "
       << smoothed_;
  return text.str();
}

}  // namespace gearshift::ps
