#include "sim/step_filler.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>

namespace gearshift::sim {
namespace {

/// The steps of one worker.
class StepFiller {
 public:
  StepFiller(WorkerResult& worker, const std::deque<StepRow>& rows, const Filling& filling)
      : worker_(worker),
        rows_(rows),
        filling_(filling),
        simulated_(std::exchange(worker.steps, {})),
        copies_(simulated_.size() + 1) {
    for (int step = 1; step <= filling_.after; ++step) take(step);
  }

  /// Copies the last `length` steps of the window, so that together they take `seconds`.
  void copy_together(int length, double seconds) {
    const int first = filling_.after - length + 1;
    const StepTimes& begins = simulated(first);
    const double own = simulated(filling_.after).end - begins.begin;
    const double late = own - seconds;
    const bool little = std::abs(late) <= (begins.computed - begins.begin) / 4;
    for (int step = first; step <= filling_.after; ++step) {
      copy(step, little ? 1 : seconds / own, little && step == first ? late : 0);
    }
  }

  /// Copies the last steps of the window at the worker's own pace, in turn.
  void copy_window(int count) {
    for (int i = count; i > 0;) {
      const int length = (i - 1) % filling_.window + 1;
      for (int step = filling_.after - length + 1; step <= filling_.after; ++step) copy(step);
      i -= length;
    }
  }

  /// Until the given step, all that was simulated after the window.
  void take_until(int last) {
    for (; taken_ < last;) take(taken_ + 1);
  }

  /// The remaining steps, and `count` copies of them spread among them.
  void stretch(int count) {
    const int first = taken_ + 1, rest = static_cast<int>(simulated_.size()) - taken_;
    for (std::int64_t i = 0; i < rest + count; ++i) {
      const int step = first + static_cast<int>(i * rest / (rest + count));
      if (step > taken_) {
        take(step);
      } else {
        copy(step);
      }
    }
  }

  /// Sums: those of the simulated steps, and of the copies.
  void add_up() {
    for (std::size_t i = 1; i < copies_.size(); ++i) {
      const auto count = static_cast<std::uint64_t>(copies_[i]);
      if (count == 0) continue;
      const Milestone &to = milestone(static_cast<int>(i)),
                      from = i > 1 ? milestone(static_cast<int>(i) - 1) : Milestone{};
      const auto times = static_cast<double>(count);
      worker_.exposed_seconds += times * (to.exposed_seconds - from.exposed_seconds);
      worker_.communication_seconds +=
          times * (to.communication_seconds - from.communication_seconds);
      worker_.bytes_sent += count * (to.bytes_sent - from.bytes_sent);
      worker_.messages_sent += count * (to.messages_sent - from.messages_sent);
      if (to.staleness) worker_.staleness[*to.staleness] += copies_[i];
    }
  }

 private:
  const StepTimes& simulated(int step) const {
    return simulated_[static_cast<std::size_t>(step - 1)];
  }
  const Milestone& milestone(int step) const {
    return rows_[static_cast<std::size_t>(step - 1)]
        .workers[static_cast<std::size_t>(worker_.rank)];
  }

  void append(const StepTimes& times, double scale, double shorter) {
    const double begin = worker_.steps.empty() ? times.begin : worker_.steps.back().end;
    worker_.steps.push_back({begin, begin + (times.computed - times.begin) * scale - shorter,
                             begin + (times.end - times.begin) * scale - shorter});
  }

  void take(int step) {
    append(simulated(step), 1, 0);
    taken_ = step;
  }

  void copy(int step, double scale = 1, double shorter = 0) {
    append(simulated(step), scale, shorter);
    ++copies_[static_cast<std::size_t>(step)];
  }

  WorkerResult& worker_;
  const std::deque<StepRow>& rows_;
  const Filling& filling_;
  const std::vector<StepTimes> simulated_;
  std::vector<std::int64_t> copies_;  ///< of each step
  int taken_ = 0;                     ///< of the simulated steps
};

double last_end(const SimulationResult& result) {
  double last = 0;
  for (const WorkerResult& worker : result.workers) last = std::max(last, worker.steps.back().end);
  return last;
}

/// How long the last `length` steps of the window took the workers on average.
double seconds(const SimulationResult& result, int after, int length) {
  double sum = 0;
  for (const WorkerResult& worker : result.workers) {
    const auto last = worker.steps.begin() + after - 1;
    sum += last->end - (last - length + 1)->begin;
  }
  return sum / static_cast<double>(result.workers.size());
}

void fill_together(SimulationResult& result, const std::deque<StepRow>& rows,
                   const Filling& filling) {
  std::vector<std::pair<int, double>> blocks;
  for (int left = filling.count; left > 0; left -= blocks.back().first) {
    const int length = (left - 1) % filling.window + 1;
    blocks.emplace_back(length, seconds(result, filling.after, length));
  }
  for (WorkerResult& worker : result.workers) {
    StepFiller filler(worker, rows, filling);
    for (const auto& [length, together] : blocks) filler.copy_together(length, together);
    filler.stretch(0);
    filler.add_up();
  }
}

void fill_apart(SimulationResult& result, const std::deque<StepRow>& rows, const Filling& filling) {
  const auto pace = [&](const WorkerResult& worker) {
    const auto last = worker.steps.begin() + filling.after - 1;
    return (last->end - (last - filling.window + 1)->begin) / filling.window;
  };
  // When the first worker is done, in the training that was simulated and in the whole one.
  double simulated_end = last_end(result), end = INFINITY;
  for (const WorkerResult& worker : result.workers) {
    simulated_end = std::min(simulated_end, worker.steps.back().end);
    end = std::min(end, worker.steps.back().end + filling.count * pace(worker));
  }
  for (WorkerResult& worker : result.workers) {
    const auto later = std::find_if(worker.steps.begin(), worker.steps.end(),
                                    [&](const StepTimes& s) { return s.end > simulated_end; });
    const auto before = static_cast<int>(later - worker.steps.begin());
    const double left = (end - (later - 1)->end) / pace(worker);
    const bool goes_on = later != worker.steps.end();
    const int until =
        goes_on ? static_cast<int>(std::clamp<double>(left, 0, filling.count)) : filling.count;
    StepFiller filler(worker, rows, filling);
    filler.copy_window(until);
    filler.take_until(before);
    if (goes_on) filler.stretch(filling.count - until);
    filler.add_up();
  }
}

}  // namespace

void fill(SimulationResult& result, const std::deque<StepRow>& rows, const Filling& filling) {
  const double before = last_end(result);
  const auto simulated = static_cast<double>(result.workers.front().steps.size());
  if (filling.apart) {
    fill_apart(result, rows, filling);
  } else {
    fill_together(result, rows, filling);
  }
  result.virtual_seconds += last_end(result) - before;
  const StepRow& to = rows[static_cast<std::size_t>(filling.after - 1)];
  const StepRow& from = rows[static_cast<std::size_t>(filling.after - filling.window - 1)];
  const double times = filling.count * static_cast<double>(result.workers.size()) /
                       static_cast<double>(to.done - from.done);
  const auto messages = static_cast<double>(to.network.messages - from.network.messages);
  result.messages += static_cast<std::uint64_t>(std::llround(times * messages));
  for (std::size_t i = 0; i < result.links.size(); ++i) {
    LinkUse& link = result.links[i];
    // In the window, a worker that is faster than the others has used its links more.
    link.bytes += filling.apart ? filling.count / simulated * link.bytes
                                : times * (to.network.carried[i] - from.network.carried[i]);
  }
}

}  // namespace gearshift::sim
