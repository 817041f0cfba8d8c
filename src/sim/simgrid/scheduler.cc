#include "sim/simgrid/scheduler.h"

#include <algorithm>
#include <simgrid/s4u/Host.hpp>
#include <utility>

#include "sim/fiber_runner.h"
#include "sim/simgrid/simgrid_runner.h"

namespace gearshift::sim {

namespace sg4 = simgrid::s4u;
using base::TimePoint;

namespace {

/// A lock that is handed from holder to waiter in order. Tasks are never interrupted, so its state
/// needs no protection of its own.
class SimMonitor final : public base::Monitor {
 public:
  explicit SimMonitor(SimScheduler& scheduler) : scheduler_(scheduler) {}

  void lock() override {
    if (!locked_) {
      locked_ = true;
      return;
    }
    lockers_.push_back(&scheduler_.current());
    scheduler_.park(TimePoint::never());  // `unlock` keeps it locked for the one it wakes
  }

  void unlock() override {
    if (lockers_.empty()) {
      locked_ = false;
      return;
    }
    Actor* next = lockers_.front();
    lockers_.erase(lockers_.begin());
    scheduler_.wake(*next);
  }

  bool wait_until(TimePoint deadline) override {
    if (deadline <= scheduler_.now()) return false;
    Actor* self = &scheduler_.current();
    waiters_.push_back(self);
    unlock();
    const bool notified = scheduler_.park(deadline);
    if (!notified) std::erase(waiters_, self);
    lock();
    return notified || scheduler_.now() < deadline;
  }

  void notify_all() override {
    for (Actor* waiter : waiters_) scheduler_.wake(*waiter);
    waiters_.clear();
  }

 private:
  SimScheduler& scheduler_;
  bool locked_ = false;
  std::vector<Actor*> lockers_;
  std::vector<Actor*> waiters_;
};

class SimTask final : public base::Task {
 public:
  SimTask(SimScheduler& scheduler, Actor& actor) : scheduler_(scheduler), actor_(actor) {}
  ~SimTask() override { join(); }
  void join() override { scheduler_.join(actor_); }

 private:
  SimScheduler& scheduler_;
  Actor& actor_;
};

}  // namespace

SimScheduler::SimScheduler(Sharing sharing, std::size_t stack_bytes) {
  Alarms& alarms = *this;
  if (sharing != Sharing::kMaxMin) {
    runner_ = std::make_unique<FiberRunner>(alarms, stack_bytes);
    return;
  }
  auto simgrid = std::make_unique<SimGridRunner>(alarms);
  simgrid_ = simgrid.get();
  runner_ = std::move(simgrid);
}

SimScheduler::~SimScheduler() = default;

std::unique_ptr<base::Monitor> SimScheduler::make_monitor() {
  return std::make_unique<SimMonitor>(*this);
}

std::unique_ptr<base::Task> SimScheduler::spawn(std::string name, std::function<void()> body) {
  return spawn_on(current().host, std::move(name), std::move(body));
}

std::unique_ptr<base::Task> SimScheduler::spawn_on(sg4::Host* host, std::string name,
                                                   std::function<void()> body) {
  Actor& made = actors_.emplace_back();
  made.number = actors_.size();
  made.host = host;
  made.model = host->get_data<HostModel>();
  // Woken tasks run on when others are let in here: they must not be left out.
  if (runner_->current() != nullptr) runner_->resume(to_wake_);
  runner_->create(made, name,
                  [this, &made, body = std::move(body)]() mutable { run(made, std::move(body)); });
  return std::make_unique<SimTask>(*this, made);
}

void SimScheduler::run(Actor& self, std::function<void()> body) {
  body();
  body = nullptr;  // who joins may end what the body holds on to
  self.ended = true;
  if (self.alarm_at != TimePoint::never()) runner_->drop_alarm(self);
  for (Actor* joiner : self.joiners) wake(*joiner);
  runner_->resume(to_wake_);
}

void SimScheduler::join(Actor& other) {
  // Outside of tasks, after the end or before the begin, there is nobody to wait for.
  while (!other.ended && runner_->current() != nullptr) {
    other.joiners.push_back(&current());
    park(TimePoint::never());
  }
}

void SimScheduler::wake(Actor& actor) {
  if (actor.woken) return;
  actor.woken = true;
  __builtin_prefetch(actor.state.get());
  to_wake_.push_back(&actor);
}

bool SimScheduler::park(TimePoint deadline) {
  Actor& self = current();
  arm(self, deadline);
  runner_->park(to_wake_);
  self.waits_until_deadline = false;
  return std::exchange(self.woken, false);
}

void SimScheduler::arm(Actor& self, TimePoint deadline) {
  self.deadline = deadline;
  self.waits_until_deadline = deadline != TimePoint::never();
  if (self.alarm_at <= deadline) return;
  if (self.alarm_at != TimePoint::never()) runner_->drop_alarm(self);
  runner_->set_alarm(self, deadline);
}

void SimScheduler::alarm(Actor& actor) {
  if (!actor.waits_until_deadline) return;
  if (now() < actor.deadline) {
    runner_->set_alarm(actor, actor.deadline);
    return;
  }
  actor.waits_until_deadline = false;
  runner_->resume(actor);
}

void SimScheduler::sleep_until(TimePoint when) {
  if (when <= now()) return;
  sleepers_.push({when, &current()});
  set_rousing();
  park(TimePoint::never());
}

void SimScheduler::call_at(TimePoint when, Alarmed& target, int what) {
  sleepers_.push({when, nullptr, &target, what});
  set_rousing();
}

void SimScheduler::set_rousing() {
  const TimePoint first = sleepers_.next();
  if (rousing_at_ <= first) return;
  rousing_at_ = first;
  runner_->rouse_at(first);
}

void SimScheduler::rouse() {
  rousing_at_ = TimePoint::never();
  while (sleepers_.next() <= now()) {
    due_.clear();
    sleepers_.pop(due_);
    wake_due();
  }
  if (!to_wake_.empty()) runner_->resume(to_wake_);
  if (!sleepers_.empty()) set_rousing();
}

/// With many tasks, what happens looks at memory that is in no cache: it is asked for a little
/// ahead.
void SimScheduler::wake_due() {
  constexpr std::size_t kNear = 4, kAhead = 2 * kNear;
  for (std::size_t i = 0; i < due_.size(); ++i) {
    if (i + kAhead < due_.size()) due_[i + kAhead].prefetch();
    if (i + kNear < due_.size()) due_[i + kNear].prepare();
    const Sleeper& sleeper = due_[i];
    if (sleeper.actor != nullptr) {
      wake(*sleeper.actor);
    } else {
      sleeper.target->alarm(sleeper.what);
    }
  }
}

void SimScheduler::work(base::Work kind, std::size_t bytes) {
  const HostModel& model = *current().model;
  double rate = model.copy_bandwidth;
  if (kind == base::Work::kCombine) rate = model.reduce_bandwidth;
  if (kind == base::Work::kUpdate) rate = model.update_bandwidth;
  sleep_until(now() + base::from_seconds(static_cast<double>(bytes) / rate));
}

void SimScheduler::transfer(sg4::Host* from, sg4::Host* to, std::uint64_t bytes) {
  runner_->resume(to_wake_);
  simgrid_->transfer(from, to, bytes);
}

}  // namespace gearshift::sim
