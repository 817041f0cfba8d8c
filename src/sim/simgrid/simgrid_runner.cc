#include "sim/simgrid/simgrid_runner.h"

#include <alloca.h>

#include <cmath>
#include <limits>
#include <simgrid/kernel/Timer.hpp>
#include <simgrid/s4u/Actor.hpp>
#include <simgrid/s4u/Comm.hpp>
#include <simgrid/s4u/Engine.hpp>
#include <simgrid/s4u/Host.hpp>
#include <simgrid/simix.hpp>
#include <utility>

namespace gearshift::sim {

namespace sg4 = simgrid::s4u;
using base::TimePoint;
using simgrid::kernel::timer::Timer;

namespace {

TimePoint virtual_now() { return {base::Duration(std::llround(sg4::Engine::get_clock() * 1e9))}; }

double seconds_of(TimePoint t) { return static_cast<double>(t.since_origin.count()) * 1e-9; }

/// SimGrid's time at which it is `t` or later here: from months on, its seconds are coarser than
/// nanoseconds, and an alarm that came before its time would be set anew for ever.
double date_of(TimePoint t) {
  const double date = seconds_of(t);
  if (std::llround(date * 1e9) >= t.since_origin.count()) return date;
  return std::nextafter(date, std::numeric_limits<double>::infinity());
}

/// Leaves SimGrid when it finds tasks that wait for each other, before it unwinds them: their
/// destructors would wait for others.
struct Standstill {};

}  // namespace

struct SimGridRunner::Task final : TaskState {
  sg4::ActorPtr actor;
  std::function<void()> body;  ///< not left to SimGrid, which keeps copies
  Timer* timer = nullptr;      ///< of its alarm
};

SimGridRunner::Task& SimGridRunner::task(Actor& actor) { return static_cast<Task&>(*actor.state); }

SimGridRunner::SimGridRunner(Alarms& alarms) : Runner(alarms) {
  sg4::Engine::on_time_advance_cb([this](double) { set_now(virtual_now()); });
  sg4::Engine::on_deadlock_cb([] { throw Standstill(); });
}

void SimGridRunner::create(Actor& actor, const std::string& name, std::function<void()> body) {
  Actor* const caller = current();
  auto made = std::make_unique<Task>();
  Task& task = *made;
  task.body = std::move(body);
  actor.state = std::move(made);
  task.actor = sg4::Actor::create(name, actor.host, [this, &actor, &task] {
    // SimGrid's stacks lie at multiples of their size, so the same frames of all tasks would
    // compete for the same few places of the processor's caches.
    constexpr std::size_t kColours = 61, kStride = 576;
    auto* const room = static_cast<volatile char*>(alloca((actor.number % kColours) * kStride + 1));
    room[0] = 0;
    set_current(&actor);
    task.body();
    set_current(nullptr);
  });
  set_current(caller);
}

void SimGridRunner::resume(std::vector<Actor*>& woken) {
  if (woken.empty()) return;
  Actor* const caller = current();
  std::vector<Actor*> actors;
  actors.swap(woken);
  simgrid::kernel::actor::simcall_answered([&actors] {
    for (Actor* actor : actors) {
      if (!actor->ended) task(*actor).actor->resume();
    }
  });
  set_current(caller);
}

void SimGridRunner::park(std::vector<Actor*>& woken) {
  Actor& self = *current();
  resume(woken);
  while (self.waits()) {
    sg4::this_actor::suspend();
    set_current(&self);
  }
}

void SimGridRunner::resume(Actor& actor) { task(actor).actor->resume(); }

void SimGridRunner::set_alarm(Actor& actor, TimePoint at) {
  actor.alarm_at = at;
  task(actor).timer = Timer::set(date_of(at), [this, &actor] {
    task(actor).timer = nullptr;
    actor.alarm_at = TimePoint::never();
    alarms().alarm(actor);
  });
}

void SimGridRunner::drop_alarm(Actor& actor) {
  if (Timer* timer = std::exchange(task(actor).timer, nullptr)) timer->remove();
  actor.alarm_at = TimePoint::never();
}

void SimGridRunner::rouse_at(TimePoint at) {
  if (rousing_ != nullptr) rousing_->remove();
  rousing_ = Timer::set(date_of(at), [this] {
    rousing_ = nullptr;
    set_current(nullptr);
    alarms().rouse();
  });
}

bool SimGridRunner::run() {
  bool ended = true;
  try {
    sg4::Engine::get_instance()->run();
  } catch (const Standstill&) {
    ended = false;
  }
  set_current(nullptr);
  return ended;
}

void SimGridRunner::transfer(sg4::Host* from, sg4::Host* to, std::uint64_t bytes) {
  Actor* const self = current();
  sg4::Comm::sendto_async(from, to, bytes)->wait();
  set_current(self);
}

}  // namespace gearshift::sim
