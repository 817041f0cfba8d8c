#pragma once

#include <simgrid/forward.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "gearshift/base/scheduler.h"
#include "gearshift/sim/simulate.h"
#include "sim/event_queue.h"
#include "sim/runner.h"

namespace gearshift::sim {

class SimGridRunner;

/// What something happens to at a time (see SimScheduler::call_at).
class Alarmed {
 public:
  /// Runs between the steps of the simulation, not in a task, so it must not wait. It may lock
  /// monitors: nobody holds one while time passes.
  virtual void alarm(int what) = 0;
  /// An alarm is near, and this itself in the cache: asks the processor for what it will look at.
  virtual void prepare(int what) const { (void)what; }

 protected:
  ~Alarmed() = default;
};

/// The scheduler of virtual time: tasks run one at a time on stacks of their own, in one thread.
/// Between two waits a task takes no time, unless `work` says so.
///
/// What happens often costs little: wake-ups are handed over in one call when the running task
/// waits next; sleepers share one alarm; a deadline costs an alarm only when it is earlier than the
/// one that the task has already.
///
/// Not thread-safe: everything happens in the thread that runs the simulation.
class SimScheduler final : public base::Scheduler, private Alarms {
 public:
  /// SimGrid runs the tasks where it carries the messages (kMaxMin); they are fibers otherwise,
  /// with stacks of so many bytes. Not kAuto.
  SimScheduler(Sharing sharing, std::size_t stack_bytes);
  ~SimScheduler();

  base::TimePoint now() const override { return runner_->now(); }
  void sleep_until(base::TimePoint when) override;
  std::unique_ptr<base::Task> spawn(std::string name, std::function<void()> body) override;
  std::unique_ptr<base::Monitor> make_monitor() override;
  void work(base::Work kind, std::size_t bytes) override;

  /// The same on another host than the caller's; also before the simulation runs. The host's user
  /// data is its HostModel.
  std::unique_ptr<base::Task> spawn_on(simgrid::s4u::Host* host, std::string name,
                                       std::function<void()> body);
  /// Runs what was spawned, until all has ended. False: it waits for each other, for ever. Such
  /// tasks are never ended: once there are some, destroying a task does not wait.
  bool run() { return runner_->run(); }

  // For monitors, tasks and links:
  Actor& current() { return *runner_->current(); }
  /// Calls `target.alarm(what)` at that time, which is in the future. Costs less than a task that
  /// sleeps.
  void call_at(base::TimePoint when, Alarmed& target, int what);
  /// Waits for `wake`; false at the deadline.
  bool park(base::TimePoint deadline);
  void wake(Actor& actor);
  void join(Actor& other);
  /// Waits until SimGrid has carried the bytes. Under kMaxMin only.
  void transfer(simgrid::s4u::Host* from, simgrid::s4u::Host* to, std::uint64_t bytes);

 private:
  void run(Actor& self, std::function<void()> body);
  void arm(Actor& self, base::TimePoint deadline);
  void alarm(Actor& actor) override;
  void rouse() override;
  void set_rousing();
  void wake_due();

  struct Sleeper {
    base::TimePoint until;
    Actor* actor = nullptr;     ///< who sleeps, or
    Alarmed* target = nullptr;  ///< what to call
    int what = 0;
    void prepare() const {
      if (target != nullptr) target->prepare(what);
    }
    void prefetch() const {
      const auto* first = actor != nullptr ? reinterpret_cast<const char*>(actor)
                                           : reinterpret_cast<const char*>(target);
      constexpr int kLines = 3, kLine = 64;
      for (int line = 0; line < kLines; ++line) __builtin_prefetch(first + line * kLine);
    }
  };

  std::unique_ptr<Runner> runner_;
  SimGridRunner* simgrid_ = nullptr;  ///< if it is that one
  std::deque<Actor> actors_;
  EventQueue<Sleeper> sleepers_;
  std::vector<Sleeper> due_;
  base::TimePoint rousing_at_ = base::TimePoint::never();  ///< when the first sleeper wakes
  std::vector<Actor*> to_wake_;
};

}  // namespace gearshift::sim
