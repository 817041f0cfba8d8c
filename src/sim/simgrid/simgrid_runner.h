#pragma once

#include <functional>
#include <string>
#include <vector>

#include "sim/runner.h"

namespace simgrid::kernel::timer {
class Timer;
}

namespace gearshift::sim {

/// Tasks as SimGrid's actors: for a network whose messages SimGrid carries.
///
/// What happens often is kept away from SimGrid's own objects, which cost more than the events that
/// they stand for: all tasks that one lets go on are handed over in one call.
class SimGridRunner final : public Runner {
 public:
  explicit SimGridRunner(Alarms& alarms);

  void create(Actor& actor, const std::string& name, std::function<void()> body) override;
  void resume(std::vector<Actor*>& woken) override;
  void park(std::vector<Actor*>& woken) override;
  void resume(Actor& actor) override;
  void set_alarm(Actor& actor, base::TimePoint at) override;
  void drop_alarm(Actor& actor) override;
  void rouse_at(base::TimePoint at) override;
  bool run() override;
  /// The running task waits until the bytes are through.
  void transfer(simgrid::s4u::Host* from, simgrid::s4u::Host* to, std::uint64_t bytes);

 private:
  struct Task;
  static Task& task(Actor& actor);

  simgrid::kernel::timer::Timer* rousing_ = nullptr;
};

}  // namespace gearshift::sim
