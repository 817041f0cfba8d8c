#pragma once

#include <simgrid/forward.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "gearshift/base/scheduler.h"
#include "gearshift/sim/cluster.h"

namespace gearshift::sim {

/// What a runner keeps of a task.
struct TaskState {
  virtual ~TaskState() = default;
};

/// One task of the simulation, and what it waits for. Lives as long as its scheduler.
struct Actor {
  std::size_t number = 0;
  std::unique_ptr<TaskState> state;
  simgrid::s4u::Host* host = nullptr;
  const HostModel* model = nullptr;  ///< of the host
  bool woken = false;                ///< a wake-up that its next `park` takes
  bool ended = false;
  bool waits_until_deadline = false;
  base::TimePoint deadline = base::TimePoint::never();  ///< of the wait under way
  base::TimePoint alarm_at = base::TimePoint::never();  ///< before or at the deadline; never: none
  std::vector<Actor*> joiners;

  /// Neither was it woken, nor is the deadline of the wait over.
  bool waits() const {
    return !woken && waits_until_deadline == (deadline != base::TimePoint::never());
  }
};

/// What happens at times that a runner was told.
class Alarms {
 public:
  virtual void alarm(Actor& actor) = 0;
  virtual void rouse() = 0;

 protected:
  ~Alarms() = default;
};

/// Runs tasks, one at a time, and the clock. Tasks run in rounds: those that are let go on in one
/// round run in the next, in this order: what the first of the round let go on, itself if it did
/// not wait, what the second one did, and so on. When no task can go on, time jumps to the next
/// alarm.
///
/// Which of the runners it is makes no difference to what happens when, except for the order of
/// alarms of the same nanosecond: the fibers' runner takes them in the order in which they were
/// set, SimGrid in one that is its own.
class Runner {
 public:
  explicit Runner(Alarms& alarms) : alarms_(alarms) {}
  virtual ~Runner() = default;
  Runner(const Runner&) = delete;
  Runner& operator=(const Runner&) = delete;

  base::TimePoint now() const { return now_; }
  /// The running task; null between the rounds.
  Actor* current() const { return current_; }

  /// Runs `body` as a task.
  virtual void create(Actor& actor, const std::string& name, std::function<void()> body) = 0;
  /// Lets tasks that wait go on. `woken` is empty afterwards.
  virtual void resume(std::vector<Actor*>& woken) = 0;
  /// The same, and the running task waits as long as `Actor::waits` says.
  virtual void park(std::vector<Actor*>& woken) = 0;
  /// Between the rounds: a task whose deadline is over goes on.
  virtual void resume(Actor& actor) = 0;

  /// Calls `Alarms::alarm` then, between the rounds. One for each task at most.
  virtual void set_alarm(Actor& actor, base::TimePoint at) = 0;
  virtual void drop_alarm(Actor& actor) = 0;
  /// Calls `Alarms::rouse` then, between the rounds, instead of at the time said before.
  virtual void rouse_at(base::TimePoint at) = 0;

  /// Until there is nothing to run any more. False: tasks are left that wait for each other.
  virtual bool run() = 0;

 protected:
  Alarms& alarms() { return alarms_; }
  void set_now(base::TimePoint now) { now_ = now; }
  void set_current(Actor* actor) { current_ = actor; }

 private:
  Alarms& alarms_;
  base::TimePoint now_;
  Actor* current_ = nullptr;
};

}  // namespace gearshift::sim
