#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <queue>
#include <vector>

#include "gearshift/base/scheduler.h"
#include "transport/tcp/socket.h"

namespace gearshift::transport::tcp {

/// Waits for many descriptors at once and calls who is responsible for each. Level-triggered.
///
/// Thread-safety: all methods, unless they say otherwise.
class Reactor {
 public:
  /// Kept alive by the reactor while it is registered, and during a call.
  class Handler {
   public:
    virtual ~Handler() = default;
    /// On the reactor's task; `events` as from epoll.
    virtual void on_events(std::uint32_t events) = 0;
    /// On the reactor's task, for `call_after`.
    virtual void on_alarm() {}
  };

  static base::Result<std::shared_ptr<Reactor>> make();

  /// Identifies one registration; descriptors' numbers are used again too soon for that.
  using Id = std::uint64_t;
  Id reserve();
  base::Status add(Id id, const base::Fd& fd, std::uint32_t events,
                   std::shared_ptr<Handler> handler);
  void modify(Id id, const base::Fd& fd, std::uint32_t events);
  /// A call that is under way may still end after this returns.
  void remove(Id id, const base::Fd& fd);

  /// Calls the handler's `on_alarm` after that time, or a little (50 us) before, if it is
  /// registered then.
  void call_after(Id id, base::Duration wait);

  void run();
  void stop();

 private:
  using Clock = std::chrono::steady_clock;
  struct Alarm {
    Clock::time_point at;
    Id id;
    bool operator>(const Alarm& other) const { return at > other.at; }
  };
  Reactor(base::Fd epoll, base::Fd wake, base::Fd timer)
      : epoll_(std::move(epoll)), wake_(std::move(wake)), timer_(std::move(timer)) {}
  base::Status watch(const base::Fd& fd, Id id, std::uint32_t events);
  void set_timer();  ///< caller holds `alarms_mutex_`
  void ring();
  std::shared_ptr<Handler> find(Id id);

  const base::Fd epoll_;
  const base::Fd wake_;
  const base::Fd timer_;  ///< for the first of `alarms_`
  std::mutex alarms_mutex_;
  std::priority_queue<Alarm, std::vector<Alarm>, std::greater<>> alarms_;
  std::mutex mutex_;
  Id last_id_ = 0;
  std::map<Id, std::shared_ptr<Handler>> handlers_;
};

/// A reactor and the task that runs it. Destroying it ends the task; so handlers must not own it.
class RunningReactor {
 public:
  RunningReactor(base::Scheduler& scheduler, std::shared_ptr<Reactor> reactor);
  ~RunningReactor();
  const std::shared_ptr<Reactor>& reactor() const { return reactor_; }

 private:
  const std::shared_ptr<Reactor> reactor_;
  const std::unique_ptr<base::Task> task_;
};

}  // namespace gearshift::transport::tcp
