#include "sim/simgrid/scheduler.h"

#include <alloca.h>

#include <cmath>
#include <simgrid/kernel/Timer.hpp>
#include <simgrid/s4u/Engine.hpp>
#include <simgrid/s4u/Host.hpp>
#include <simgrid/simix.hpp>

namespace gearshift::sim {

namespace sg4 = simgrid::s4u;
using base::TimePoint;
using simgrid::kernel::timer::Timer;

namespace {

TimePoint virtual_now() { return {base::Duration(std::llround(sg4::Engine::get_clock() * 1e9))}; }

double seconds_of(TimePoint t) { return static_cast<double>(t.since_origin.count()) * 1e-9; }

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
    lockers_.pop_front();
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
  std::deque<Actor*> lockers_;
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

SimScheduler::SimScheduler() = default;
SimScheduler::~SimScheduler() = default;

TimePoint SimScheduler::now() const { return virtual_now(); }

std::unique_ptr<base::Monitor> SimScheduler::make_monitor() {
  return std::make_unique<SimMonitor>(*this);
}

std::unique_ptr<base::Task> SimScheduler::spawn(std::string name, std::function<void()> body) {
  return spawn_on(sg4::this_actor::get_host(), std::move(name), std::move(body));
}

std::unique_ptr<base::Task> SimScheduler::spawn_on(sg4::Host* host, std::string name,
                                                   std::function<void()> body) {
  Actor* const caller = current_;
  Actor& made = actors_.emplace_back();
  made.number = actors_.size();
  made.model = host->get_data<HostModel>();
  // Woken tasks run on when SimGrid is entered here: they must not be left out.
  if (caller != nullptr) hand_over_wakes();
  made.actor =
      sg4::Actor::create(name, host, [this, &made, body = std::move(body)] { run(made, body); });
  current_ = caller;
  return std::make_unique<SimTask>(*this, made);
}

/// SimGrid's stacks lie at multiples of their size, so the same frames of all tasks would compete
/// for the same few places of the processor's caches.
void SimScheduler::run(Actor& self, const std::function<void()>& body) {
  constexpr std::size_t kColours = 61, kStride = 576;
  auto* const room = static_cast<volatile char*>(alloca((self.number % kColours) * kStride + 1));
  room[0] = 0;
  current_ = &self;
  body();
  current_ = &self;
  self.ended = true;
  drop_timer(self);
  for (Actor* joiner : self.joiners) wake(*joiner);
  hand_over_wakes();
}

void SimScheduler::join(Actor& other) {
  while (!other.ended) {
    other.joiners.push_back(current_);
    park(TimePoint::never());
  }
}

void SimScheduler::wake(Actor& actor) {
  if (actor.woken) return;
  actor.woken = true;
  to_wake_.push_back(&actor);
}

void SimScheduler::hand_over_wakes() {
  if (to_wake_.empty()) return;
  std::vector<Actor*> actors;
  actors.swap(to_wake_);
  simgrid::kernel::actor::simcall_answered([&actors] {
    for (Actor* actor : actors) {
      if (!actor->ended) actor->actor->resume();
    }
  });
}

bool SimScheduler::park(TimePoint deadline) {
  Actor& self = *current_;
  arm(self, deadline);
  hand_over_wakes();
  current_ = &self;
  while (!self.woken && self.waits_until_deadline == (deadline != TimePoint::never())) {
    sg4::this_actor::suspend();
    current_ = &self;
  }
  self.waits_until_deadline = false;
  const bool woken = self.woken;
  self.woken = false;
  return woken;
}

void SimScheduler::arm(Actor& self, TimePoint deadline) {
  self.deadline = deadline;
  self.waits_until_deadline = deadline != TimePoint::never();
  if (!self.waits_until_deadline) return;
  if (self.timer != nullptr && self.timer_at <= deadline) return;
  drop_timer(self);
  set_timer(self, deadline);
}

void SimScheduler::set_timer(Actor& actor, TimePoint at) {
  actor.timer_at = at;
  actor.timer = Timer::set(seconds_of(at), [this, &actor] { alarm(actor); });
}

/// Runs between the steps of the simulation, not in an actor.
void SimScheduler::alarm(Actor& actor) {
  actor.timer = nullptr;
  if (!actor.waits_until_deadline) return;
  if (virtual_now() < actor.deadline) {
    set_timer(actor, actor.deadline);
    return;
  }
  actor.waits_until_deadline = false;
  actor.actor->resume();
}

void SimScheduler::drop_timer(Actor& actor) {
  if (actor.timer != nullptr) actor.timer->remove();
  actor.timer = nullptr;
}

void SimScheduler::sleep_until(TimePoint when) {
  if (when <= now()) return;
  Actor& self = *current_;
  sleepers_.push({when, sleeps_++, &self});
  set_rousing();
  park(TimePoint::never());
}

void SimScheduler::call_at(TimePoint when, Alarmed& target, int what) {
  sleepers_.push({when, sleeps_++, nullptr, &target, what});
  set_rousing();
}

void SimScheduler::set_rousing() {
  const TimePoint first = sleepers_.top().until;
  if (rousing_ != nullptr && rousing_at_ <= first) return;
  if (rousing_ != nullptr) rousing_->remove();
  rousing_at_ = first;
  rousing_ = Timer::set(seconds_of(first), [this] { rouse(); });
}

/// Runs between the steps of the simulation, not in an actor.
void SimScheduler::rouse() {
  rousing_ = nullptr;
  current_ = nullptr;
  const TimePoint now = virtual_now();
  while (!sleepers_.empty() && sleepers_.top().until <= now) {
    const Sleeper sleeper = sleepers_.top();
    sleepers_.pop();
    if (sleeper.actor != nullptr) {
      wake(*sleeper.actor);
    } else {
      sleeper.target->alarm(sleeper.what);
    }
  }
  hand_over_wakes();
  if (!sleepers_.empty()) set_rousing();
}

void SimScheduler::work(base::Work kind, std::size_t bytes) {
  const HostModel& model = *current_->model;
  double rate = model.copy_bandwidth;
  if (kind == base::Work::kCombine) rate = model.reduce_bandwidth;
  if (kind == base::Work::kUpdate) rate = model.update_bandwidth;
  sleep_until(now() + base::from_seconds(static_cast<double>(bytes) / rate));
}

void SimScheduler::transfer(sg4::Host* from, sg4::Host* to, std::uint64_t bytes) {
  Actor& self = *current_;
  hand_over_wakes();
  sg4::Comm::sendto_async(from, to, bytes)->wait();
  current_ = &self;
}

}  // namespace gearshift::sim
