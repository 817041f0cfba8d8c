#include "sim/simgrid/port.h"

#include <algorithm>

namespace gearshift::sim {

/// The clock's resolution.
constexpr double kTick = 1e-9;

/// Bytes of a message that enter at once.
constexpr double kPiece = 256 * 1024;

void Passenger::enter(std::uint64_t size) {
  left_ = static_cast<double>(std::max<std::uint64_t>(size, 1));
  enter_piece();
}

void Passenger::enter_piece() {
  size_ = std::min(left_, kPiece);
  left_ -= size_;
  const std::vector<Port*>& ports = route();
  pending_ = ports.size();
  for (Port* port : ports) port->enter(*this);
}

void Passenger::leave_port() {
  if (--pending_ > 0) return;
  if (left_ > 0) return enter_piece();
  on_through();
}

void Port::enter(Passenger& passenger) {
  advance();
  served_.push({progress_ + passenger.size_, entered_++, &passenger});
  arm(seconds_left());
}

void Port::advance() {
  const base::TimePoint now = scheduler_.now();
  if (served_.empty()) {
    progress_ = 0;
  } else {
    progress_ += base::to_seconds(now - since_) * bandwidth_ / static_cast<double>(served_.size());
  }
  since_ = now;
}

/// Until the next message is through, if no other one comes.
double Port::seconds_left() const {
  return (served_.top().end - progress_) * static_cast<double>(served_.size()) / bandwidth_;
}

/// An alarm that comes too early is harmless, and cheaper than a new one for every message that
/// begins.
void Port::arm(double seconds) {
  const double exact = seconds / kTick;
  auto ticks = static_cast<std::int64_t>(exact);
  if (static_cast<double>(ticks) < exact) ++ticks;  // rounded up, without a call
  const base::TimePoint at = since_ + base::Duration(std::max<std::int64_t>(ticks, 1));
  if (armed_ && armed_at_ <= at) return;
  armed_ = true;
  armed_at_ = at;
  scheduler_.call_at(at, *this, ++alarms_);
}

void Port::alarm(int what) {
  if (what != alarms_) return;
  armed_ = false;
  advance();
  done_.clear();
  while (!served_.empty()) {
    const double seconds = seconds_left();
    if (seconds >= kTick) {
      arm(seconds);
      break;
    }
    done_.push_back(served_.top().passenger);
    __builtin_prefetch(done_.back());
    served_.pop();
  }
  for (Passenger* passenger : done_) passenger->leave_port();
}

}  // namespace gearshift::sim
