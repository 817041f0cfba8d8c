#include "transport/tcp/read_pace.h"

#include <algorithm>

namespace gearshift::transport::tcp {
namespace {

/// What to let gather: one acknowledgement for so much takes 0.2 % of the way back. More would take
/// a larger part of the window.
constexpr std::uint64_t kGather = 32U << 10;
/// Of the whole process, bytes per second: 250 Mbit/s. Gigabit links gain nothing, and lose what a
/// late read costs now and then.
constexpr double kFast = 31e6;
/// What the meter's figure is an average over, and how it fades where nothing is as fast any more.
constexpr base::Duration kMeasured = std::chrono::milliseconds(10);
constexpr double kFading = 0.95;
/// A shorter rest is not worth a timer.
constexpr base::Duration kLeastRest = std::chrono::microseconds(200);
/// The kernel acknowledges by itself after 40 ms, and others may want the link.
constexpr base::Duration kMostRest = std::chrono::milliseconds(5);
/// Of the time that the rest of a part should take: too late would cost more than too early.
constexpr double kEarly = 0.75;

}  // namespace

void ReadMeter::add(std::uint64_t bytes, base::TimePoint now) {
  bytes_ += bytes;
  const base::Duration took = now - since_;
  if (took < kMeasured) return;
  peak_ = std::max(kFading * peak_, static_cast<double>(bytes_) / base::to_seconds(took));
  since_ = now;
  bytes_ = 0;
}

base::Duration ReadPace::after_read(std::uint64_t got, std::uint64_t missing, base::TimePoint now) {
  meter_.add(got, now);
  if (got == 0 || missing == 0) {  // the sender may pause
    running_ = false;
    return base::Duration::zero();
  }
  note(got, now);
  if (rate_ == 0 || meter_.peak() > kFast) return base::Duration::zero();
  const double bytes =
      missing > 2 * kGather ? static_cast<double>(kGather) : kEarly * static_cast<double>(missing);
  const base::Duration rest = base::from_seconds(bytes / rate_);
  return rest < kLeastRest ? base::Duration::zero() : std::min(rest, kMostRest);
}

void ReadPace::note(std::uint64_t got, base::TimePoint now) {
  if (!running_) {  // when its first bytes came is not known
    running_ = true;
    since_ = now;
    gathered_ = 0;
    return;
  }
  gathered_ += got;
  const double seconds = base::to_seconds(now - since_);
  if (gathered_ < kGather / 2 || seconds <= 0) return;
  const double rate = static_cast<double>(gathered_) / seconds;
  rate_ = std::max(rate, (rate_ + rate) / 2);
  since_ = now;
  gathered_ = 0;
}

}  // namespace gearshift::transport::tcp
