#pragma once

#include <cstdint>
#include <functional>
#include <queue>
#include <string>
#include <vector>

#include "sim/fiber.h"
#include "sim/runner.h"

namespace gearshift::sim {

/// Tasks as fibers, for networks that need nothing of SimGrid. A task that waits costs a switch of
/// stacks and next to nothing besides; whether it has to go on is found out without switching to
/// it.
///
/// Tasks that have not ended when this is destroyed are forgotten, with what their stacks hold.
class FiberRunner final : public Runner {
 public:
  FiberRunner(Alarms& alarms, std::size_t stack_bytes) : Runner(alarms), stacks_(stack_bytes) {}

  void create(Actor& actor, const std::string& name, std::function<void()> body) override;
  void resume(std::vector<Actor*>& woken) override;
  void park(std::vector<Actor*>& woken) override;
  void resume(Actor& actor) override;
  void set_alarm(Actor& actor, base::TimePoint at) override;
  void drop_alarm(Actor& actor) override { actor.alarm_at = base::TimePoint::never(); }
  void rouse_at(base::TimePoint at) override { rousing_ = at; }
  bool run() override;

 private:
  /// What is done for a task after the round in which it stopped.
  enum class Request : unsigned char { kNone, kWait, kGoOn, kEnd };
  struct Task;
  struct Deadline {
    base::TimePoint at;
    Actor* actor = nullptr;
    std::uint64_t number = 0;  ///< equal times: in the order in which they were set
    bool operator>(const Deadline& other) const {
      return at != other.at ? at > other.at : number > other.number;
    }
  };
  static Task& task(Actor& actor);
  Fiber& enter(Task& task);
  void stop(Request request, std::vector<Actor*>& woken);
  Fiber& go_on();
  Task* next();
  void prefetch() const;
  void run_round();
  void carry_out(Task& task);
  base::TimePoint next_deadline();
  void let_go(Actor& actor);

  Stacks stacks_;
  Fiber outside_;  ///< what called `run`, while a task runs
  std::vector<Task*> round_, next_round_;
  std::size_t position_ = 0;      ///< in the round
  std::vector<Actor*> released_;  ///< in this round, to go on in the next
  base::TimePoint rousing_ = base::TimePoint::never();
  std::priority_queue<Deadline, std::vector<Deadline>, std::greater<>> deadlines_;
  std::uint64_t numbers_ = 0;
  std::size_t alive_ = 0;
};

}  // namespace gearshift::sim
