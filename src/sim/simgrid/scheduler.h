#pragma once

#include <simgrid/forward.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <simgrid/s4u/Actor.hpp>
#include <simgrid/s4u/Comm.hpp>
#include <string>
#include <vector>

#include "gearshift/base/scheduler.h"
#include "gearshift/sim/cluster.h"

namespace gearshift::sim {

/// One actor of the simulation, and what it waits for. Lives as long as its scheduler.
struct Actor {
  simgrid::s4u::ActorPtr actor;
  const HostModel* model = nullptr;  ///< of its host
  bool woken = false;                ///< a wake-up that its next `park` takes
  bool ended = false;
  base::TimePoint deadline = base::TimePoint::never();  ///< of the wait under way
  bool waits_until_deadline = false;
  simgrid::kernel::timer::Timer* timer = nullptr;  ///< fires at, or before, the deadline
  base::TimePoint timer_at;
  std::vector<Actor*> joiners;
};

/// The scheduler of virtual time: tasks are SimGrid actors, which run one at a time on stacks of
/// their own, in one thread. Between two waits a task takes no time, unless `work` says so.
///
/// Wake-ups are collected and handed to SimGrid in one call when the running task waits next; a
/// deadline costs a timer only when it is earlier than the one that the task has already.
///
/// Not thread-safe: everything happens in the thread that runs the simulation.
class SimScheduler final : public base::Scheduler {
 public:
  SimScheduler();
  ~SimScheduler() override;

  base::TimePoint now() const override;
  void sleep_until(base::TimePoint when) override;
  std::unique_ptr<base::Task> spawn(std::string name, std::function<void()> body) override;
  std::unique_ptr<base::Monitor> make_monitor() override;
  void work(base::Work kind, std::size_t bytes) override;

  /// The same on another host than the caller's; also before the simulation runs. The host's user
  /// data is its HostModel.
  std::unique_ptr<base::Task> spawn_on(simgrid::s4u::Host* host, std::string name,
                                       std::function<void()> body);

  // For monitors, tasks and links:
  Actor& current() { return *current_; }
  /// Waits for `wake`; false at the deadline.
  bool park(base::TimePoint deadline);
  void wake(Actor& actor);
  void join(Actor& other);
  /// Waits until the bytes are through.
  void transfer(simgrid::s4u::Host* from, simgrid::s4u::Host* to, std::uint64_t bytes);

 private:
  void run(Actor& self, const std::function<void()>& body);
  void hand_over_wakes();
  void arm(Actor& self, base::TimePoint deadline);
  void alarm(Actor& actor);
  void set_timer(Actor& actor, base::TimePoint at);
  static void drop_timer(Actor& actor);

  std::deque<Actor> actors_;
  std::vector<Actor*> to_wake_;
  Actor* current_ = nullptr;
};

}  // namespace gearshift::sim
