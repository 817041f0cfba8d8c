#include "transport/tcp/reactor.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "gearshift/base/log.h"
#include "gearshift/base/threads.h"

namespace gearshift::transport::tcp {
namespace {

constexpr Reactor::Id kWake = 0;
constexpr Reactor::Id kTimer = ~Reactor::Id{0};
/// Alarms so near to each other ring together.
constexpr auto kTogether = std::chrono::microseconds(50);

epoll_event event_of(Reactor::Id id, std::uint32_t events) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = id;
  return event;
}

}  // namespace

base::Result<std::shared_ptr<Reactor>> Reactor::make() {
  base::Fd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll) return last_io_error("epoll_create1");
  base::Fd wake(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake) return last_io_error("eventfd");
  base::Fd timer(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!timer) return last_io_error("timerfd_create");
  std::shared_ptr<Reactor> made(new Reactor(std::move(epoll), std::move(wake), std::move(timer)));
  GEARSHIFT_RETURN_IF_ERROR(made->watch(made->wake_, kWake, EPOLLIN));
  // Edge-triggered: setting it anew is enough, nobody reads it.
  GEARSHIFT_RETURN_IF_ERROR(made->watch(made->timer_, kTimer, EPOLLIN | EPOLLET));
  return made;
}

base::Status Reactor::watch(const base::Fd& fd, Id id, std::uint32_t events) {
  epoll_event event = event_of(id, events);
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd.get(), &event) == 0) return {};
  return last_io_error("epoll_ctl");
}

Reactor::Id Reactor::reserve() {
  std::lock_guard<std::mutex> lock(mutex_);
  return ++last_id_;
}

base::Status Reactor::add(Id id, const base::Fd& fd, std::uint32_t events,
                          std::shared_ptr<Handler> handler) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    handlers_[id] = std::move(handler);
  }
  base::Status watched = watch(fd, id, events);
  if (!watched) remove(id, fd);
  return watched;
}

void Reactor::modify(Id id, const base::Fd& fd, std::uint32_t events) {
  epoll_event event = event_of(id, events);
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd.get(), &event);
}

void Reactor::remove(Id id, const base::Fd& fd) {
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd.get(), nullptr);
  std::shared_ptr<Handler> last;  // destroyed after the lock is released
  std::lock_guard<std::mutex> lock(mutex_);
  if (auto found = handlers_.extract(id)) last = std::move(found.mapped());
}

std::shared_ptr<Reactor::Handler> Reactor::find(Id id) {
  std::lock_guard<std::mutex> lock(mutex_);
  auto found = handlers_.find(id);
  return found == handlers_.end() ? nullptr : found->second;
}

void Reactor::call_after(Id id, base::Duration wait) {
  std::lock_guard<std::mutex> lock(alarms_mutex_);
  alarms_.push({Clock::now() + wait, id});
  if (alarms_.top().id == id) set_timer();
}

void Reactor::set_timer() {
  const auto left = std::max<std::chrono::nanoseconds>(alarms_.top().at - Clock::now(),
                                                       std::chrono::nanoseconds(1));
  const auto seconds = std::chrono::floor<std::chrono::seconds>(left);
  itimerspec spec{};
  spec.it_value = {.tv_sec = seconds.count(), .tv_nsec = (left - seconds).count()};
  ::timerfd_settime(timer_.get(), 0, &spec, nullptr);
}

void Reactor::ring() {
  const Clock::time_point due = Clock::now() + kTogether;
  std::unique_lock<std::mutex> lock(alarms_mutex_);
  while (!alarms_.empty() && alarms_.top().at <= due) {
    const Id id = alarms_.top().id;
    alarms_.pop();
    lock.unlock();
    if (auto handler = find(id)) handler->on_alarm();
    lock.lock();
  }
  if (!alarms_.empty()) set_timer();
}

void Reactor::run() {
  std::array<epoll_event, 64> ready;
  for (;;) {
    const int count = ::epoll_wait(epoll_.get(), ready.data(), static_cast<int>(ready.size()), -1);
    if (count < 0 && errno != EINTR) {
      GEARSHIFT_LOG_AT(kError, "transport", last_io_error("epoll_wait").message);
      return;
    }
    for (int i = 0; i < count; ++i) {
      const epoll_event& event = ready[static_cast<std::size_t>(i)];
      if (event.data.u64 == kWake) return;
      if (event.data.u64 == kTimer) {
        ring();
      } else if (auto handler = find(event.data.u64)) {
        handler->on_events(event.events);
      }
    }
  }
}

void Reactor::stop() {
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(wake_.get(), &one, sizeof(one));
}

RunningReactor::RunningReactor(base::Scheduler& scheduler, std::shared_ptr<Reactor> reactor)
    : reactor_(std::move(reactor)),
      task_(base::spawn_patiently(scheduler, "gs-tcp", [reactor = reactor_] { reactor->run(); })) {}

RunningReactor::~RunningReactor() {
  reactor_->stop();
  task_->join();
}

}  // namespace gearshift::transport::tcp
