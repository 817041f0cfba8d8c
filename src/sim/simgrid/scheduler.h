#pragma once

#include <simgrid/forward.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <queue>
#include <simgrid/s4u/Actor.hpp>
#include <simgrid/s4u/Comm.hpp>
#include <string>
#include <vector>

#include "gearshift/base/scheduler.h"
#include "gearshift/sim/cluster.h"

namespace gearshift::sim {

/// One actor of the simulation, and what it waits for. Lives as long as its scheduler.
struct Actor {
  std::size_t number = 0;
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

/// What something happens to at a time (see SimScheduler::call_at).
class Alarmed {
 public:
  /// Runs between the steps of the simulation, not in a task, so it must not wait. It may lock
  /// monitors: nobody holds one while time passes.
  virtual void alarm(int what) = 0;

 protected:
  ~Alarmed() = default;
};

/// The scheduler of virtual time: tasks are SimGrid actors, which run one at a time on stacks of
/// their own, in one thread. Between two waits a task takes no time, unless `work` says so.
///
/// What happens often is kept away from SimGrid's own objects, which cost more than the events that
/// they stand for: wake-ups are handed over in one call when the running task waits next; sleepers
/// share one timer; a deadline costs a timer only when it is earlier than the one that the task has
/// already.
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
  /// Calls `target.alarm(what)` at that time, which is in the future. Costs less than a task that
  /// sleeps.
  void call_at(base::TimePoint when, Alarmed& target, int what);
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
  void rouse();
  void set_rousing();
  void set_timer(Actor& actor, base::TimePoint at);
  static void drop_timer(Actor& actor);

  struct Sleeper {
    base::TimePoint until;
    /// Sleepers until the same time wake in the order in which they came.
    std::uint64_t number = 0;
    Actor* actor = nullptr;     ///< who sleeps, or
    Alarmed* target = nullptr;  ///< what to call
    int what = 0;
    bool operator>(const Sleeper& other) const {
      return until != other.until ? until > other.until : number > other.number;
    }
  };

  std::deque<Actor> actors_;
  std::priority_queue<Sleeper, std::vector<Sleeper>, std::greater<>> sleepers_;
  std::uint64_t sleeps_ = 0;
  simgrid::kernel::timer::Timer* rousing_ = nullptr;  ///< fires when the first sleeper wakes
  base::TimePoint rousing_at_;
  std::vector<Actor*> to_wake_;
  Actor* current_ = nullptr;  ///< null between the steps of the simulation
};

}  // namespace gearshift::sim
