#include "sim/fiber_runner.h"

#include <algorithm>
#include <utility>

namespace gearshift::sim {

using base::TimePoint;

struct FiberRunner::Task final : TaskState {
  Actor* actor = nullptr;
  bool parked = false;     ///< goes on only if the actor does not wait
  bool suspended = false;  ///< waits for `resume`
  Request request = Request::kNone;
  std::uint32_t first = 0, last = 0;  ///< what it released: a range of `released_`
  Fiber fiber;
  std::function<void()> body;
};

FiberRunner::Task& FiberRunner::task(Actor& actor) { return static_cast<Task&>(*actor.state); }

/// Stacks lie at multiples of a large power of two, so the same frames of all tasks would compete
/// for the same few places of the processor's caches.
constexpr std::size_t kColours = 61, kStride = 576;

void FiberRunner::create(Actor& actor, const std::string&, std::function<void()> body) {
  auto made = std::make_unique<Task>();
  Task& task = *made;
  task.actor = &actor;
  task.body = std::move(body);
  task.fiber.make(stacks_, (actor.number % kColours) * kStride,
                  [this, &task]() -> Fiber& { return enter(task); });
  actor.state = std::move(made);
  ++alive_;
  if (current() == nullptr) {
    next_round_.push_back(&task);
    return;
  }
  task.suspended = true;
  std::vector<Actor*> begins{&actor};
  stop(Request::kGoOn, begins);
}

/// All of a task, on its own stack. Returns who goes on.
Fiber& FiberRunner::enter(Task& task) {
  task.body();
  task.body = nullptr;
  task.request = Request::kEnd;
  return go_on();
}

void FiberRunner::resume(std::vector<Actor*>& woken) {
  if (woken.empty()) return;
  if (current() != nullptr) return stop(Request::kGoOn, woken);
  for (Actor* actor : woken) let_go(*actor);
  woken.clear();
}

void FiberRunner::resume(Actor& actor) { let_go(actor); }

void FiberRunner::park(std::vector<Actor*>& woken) {
  if (woken.empty() && !current()->waits()) return;
  const Request request = woken.empty() ? Request::kWait : Request::kGoOn;
  task(*current()).parked = true;
  stop(request, woken);
}

/// The running task lets others run.
void FiberRunner::stop(Request request, std::vector<Actor*>& woken) {
  Task& self = task(*current());
  self.request = request;
  self.first = static_cast<std::uint32_t>(released_.size());
  released_.insert(released_.end(), woken.begin(), woken.end());
  self.last = static_cast<std::uint32_t>(released_.size());
  woken.clear();
  self.fiber.switch_to(go_on());
  set_current(self.actor);
}

/// Who runs next: a task, or at the end of a round what called `run`.
Fiber& FiberRunner::go_on() {
  Task* const to = next();
  set_current(to != nullptr ? to->actor : nullptr);
  return to != nullptr ? to->fiber : outside_;
}

/// With a thousand tasks, what a switch reads is in no cache. It is asked for some switches before;
/// for the first tasks of a round, of which there may be no more, when they are let go.
constexpr std::size_t kStacks = 3, kActors = 6, kTasks = 9, kFirst = 4;

void FiberRunner::prefetch() const {
  const std::size_t left = round_.size() - position_;
  if (left > kTasks) __builtin_prefetch(round_[position_ + kTasks]);
  if (left > kActors) __builtin_prefetch(round_[position_ + kActors]->actor);
  if (left > kStacks) round_[position_ + kStacks]->fiber.prefetch();
}

/// The next task of the round that has to run.
FiberRunner::Task* FiberRunner::next() {
  while (position_ < round_.size()) {
    prefetch();
    Task& task = *round_[position_++];
    if (task.parked && task.actor->waits()) {
      task.request = Request::kWait;
      continue;
    }
    task.parked = false;
    return &task;
  }
  return nullptr;
}

void FiberRunner::run_round() {
  round_.swap(next_round_);
  next_round_.clear();
  released_.clear();
  position_ = 0;
  Fiber& first = go_on();
  if (&first != &outside_) outside_.switch_to(first);
  for (Task* task : round_) carry_out(*task);
}

void FiberRunner::carry_out(Task& task) {
  const Request request = std::exchange(task.request, Request::kNone);
  if (request == Request::kWait) {
    task.suspended = true;
    return;
  }
  if (request == Request::kEnd) {
    --alive_;
    task.actor->state.reset();
    return;
  }
  for (std::uint32_t i = task.first; i < task.last; ++i) let_go(*released_[i]);
  task.first = task.last = 0;
  next_round_.push_back(&task);
}

void FiberRunner::let_go(Actor& actor) {
  if (actor.ended) return;
  Task& task = FiberRunner::task(actor);
  if (!task.suspended) return;
  task.suspended = false;
  if (next_round_.size() < kFirst) task.fiber.prefetch();
  next_round_.push_back(&task);
}

void FiberRunner::set_alarm(Actor& actor, TimePoint at) {
  actor.alarm_at = at;
  deadlines_.push({at, &actor, numbers_++});
}

/// Of the alarms that were not dropped.
TimePoint FiberRunner::next_deadline() {
  while (!deadlines_.empty() && deadlines_.top().actor->alarm_at != deadlines_.top().at) {
    deadlines_.pop();
  }
  return deadlines_.empty() ? TimePoint::never() : deadlines_.top().at;
}

bool FiberRunner::run() {
  while (true) {
    while (!next_round_.empty()) run_round();
    TimePoint deadline = next_deadline();
    const TimePoint next = std::min(rousing_, deadline);
    if (next == TimePoint::never()) return alive_ == 0;
    set_now(std::max(now(), next));
    while (rousing_ <= now() || deadline <= now()) {
      if (rousing_ <= now()) {
        rousing_ = TimePoint::never();
        alarms().rouse();  // sets and drops no deadlines
        continue;
      }
      Actor& actor = *deadlines_.top().actor;
      deadlines_.pop();
      actor.alarm_at = TimePoint::never();
      alarms().alarm(actor);
      deadline = next_deadline();
    }
  }
}

}  // namespace gearshift::sim
