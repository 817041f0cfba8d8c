// How tasks that wait for a short message read the link's first stream themselves.

#include <poll.h>

#include <algorithm>

#include "transport/tcp/link.h"

namespace gearshift::transport::tcp {

using base::Duration;
using base::Fd;
using base::Status;
using base::TimePoint;

namespace {

/// Longer messages keep the reactor's task busy anyhow.
constexpr std::size_t kPulledBytes = 64U << 10;
/// From one look at the outcome to the next: a peer whose stripes are smaller than this process's
/// sends by all streams, and what the reactor's task reads of them wakes nobody here.
constexpr Duration kLook = std::chrono::milliseconds(10);

/// Until something is there, or the time is over.
void await_input(const Fd& fd, Duration wait) {
  const auto left = std::max<std::chrono::nanoseconds>(wait, std::chrono::nanoseconds(0));
  const auto seconds = std::chrono::floor<std::chrono::seconds>(left);
  const timespec time{.tv_sec = seconds.count(), .tv_nsec = (left - seconds).count()};
  pollfd waited{.fd = fd.get(), .events = POLLIN, .revents = 0};
  ::ppoll(&waited, 1, &time, nullptr);
}

}  // namespace

bool Link::pull(std::size_t bytes, const std::function<bool()>& done, TimePoint until) {
  if (bytes > std::min(kPulledBytes, options_.stripe_bytes) || !borrow()) return false;
  Stream& stream = *streams_.front();
  bool open = true;
  for (bool in_time = true; in_time && open && !done();) {
    const TimePoint now = options_.router->scheduler().now();
    in_time = now < until;
    await_input(stream.fd, in_time ? std::min(until - now, kLook) : Duration::zero());
    open = read_borrowed(stream);
  }
  leave();
  return true;
}

bool Link::borrow() {
  std::unique_lock<std::mutex> lock(receiving_, std::try_to_lock);
  Stream& stream = *streams_.front();
  if (!lock || ended_ || stream.in.over() || stream.in.ended()) return false;
  if (loan_.refuses(options_.router->scheduler().now())) return false;
  stream.await_data(false);
  loan_.take();
  return true;
}

/// False when nothing more will come.
bool Link::read_borrowed(Stream& stream) {
  Status received;
  bool open = true;
  {
    std::lock_guard<std::mutex> lock(receiving_);
    if (ended_ || stream.in.ended()) return false;
    received = read(stream);
    open = received.ok() && !stream.in.over() && !stream.in.ended();
  }
  if (!open) settle(received);
  return open;
}

void Link::leave() {
  bool wants_alarm = false;
  {
    std::lock_guard<std::mutex> lock(receiving_);
    const TimePoint now = options_.router->scheduler().now();
    loan_.leave(now);
    if (loan_.refuses(now)) return take_back();
    wants_alarm = loan_.wants_alarm();
  }
  if (wants_alarm) reactor_->call_after(streams_.front()->id, Loan::kIdle);
}

void Link::stop_pulling() {
  if (!loan_.lent()) return;
  std::lock_guard<std::mutex> lock(receiving_);
  if (loan_.idle()) take_back();
}

/// Caller holds `receiving_`.
void Link::take_back() {
  loan_.end();
  streams_.front()->await_data(true);
}

void Link::on_alarm(Stream& stream) {
  {
    std::lock_guard<std::mutex> lock(receiving_);
    if (&stream == streams_.front().get()) loan_.alarm_rang();
    if (is_lent(stream)) {
      if (!loan_.idle()) return;  // who has it sets the next alarm
      const Duration left = loan_.left(options_.router->scheduler().now());
      if (left > Duration::zero()) {
        if (loan_.wants_alarm()) reactor_->call_after(stream.id, left);
        return;
      }
      take_back();
    }
  }
  on_events(stream, 0);
}

}  // namespace gearshift::transport::tcp
