#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "gearshift/base/scheduler.h"

namespace gearshift::testing {

/// Runs `body(rank)` as `count` tasks side by side and waits for all of them.
inline void run_ranks(base::Scheduler& scheduler, int count, const std::function<void(int)>& body) {
  std::vector<std::unique_ptr<base::Task>> tasks;
  for (int rank = 0; rank < count; ++rank) {
    tasks.push_back(scheduler.spawn("rank" + std::to_string(rank), [&body, rank] { body(rank); }));
  }
  for (auto& task : tasks) task->join();
}

}  // namespace gearshift::testing
