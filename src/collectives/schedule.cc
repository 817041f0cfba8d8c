#include "collectives/schedule.h"

#include <algorithm>

#include "collectives/scratch.h"
#include "collectives/segments.h"
#include "gearshift/kernels/reduce.h"

namespace gearshift::collectives {
namespace {

/// The largest segment that is received in order to be combined.
std::size_t scratch_segment_bytes(const Schedule& schedule) {
  std::size_t largest = 0;
  for (const Step& step : schedule.steps) {
    if (step.combine == Combine::kReplace) continue;
    // Segment 0 is the largest: part_begin gives the remainder to the first ones.
    const std::size_t count = schedule.segments_of(step);
    largest = std::max(largest, segment(step.into, schedule.unit, count, 0).size());
  }
  return largest;
}

bool uses_phantoms(const Schedule& schedule) {
  return std::any_of(schedule.steps.begin(), schedule.steps.end(),
                     [](const Step& step) { return base::is_phantom(step.into); });
}

/// Items that can be under way at the same time.
std::size_t window_of(const Schedule& schedule) {
  if (schedule.independent) return std::min(kWindow, schedule.items());
  std::size_t most = 1;
  for (const Step& step : schedule.steps) most = std::max(most, schedule.segments_of(step));
  return std::min(kWindow, most);
}

class Pipeline {
 public:
  Pipeline(Operation& operation, const Schedule& schedule)
      : operation_(operation),
        scheduler_(operation.scheduler()),
        schedule_(schedule),
        window_(window_of(schedule)),
        slot_bytes_(scratch_segment_bytes(schedule)),
        scratch_(slot_bytes_ * window_, uses_phantoms(schedule)) {}

  ~Pipeline() {
    // After an error: peers that still send must not find memory that is gone.
    for (std::size_t slot = 0; slot < kWindow; ++slot) {
      operation_.withdraw(receiving_[slot]);
      operation_.withdraw(sending_[slot]);
    }
  }
  Pipeline(const Pipeline&) = delete;
  Pipeline& operator=(const Pipeline&) = delete;

  base::Status run() {
    while (done_.step < schedule_.steps.size()) {
      for (; may_start(); advance(next_)) start(next_);
      GEARSHIFT_RETURN_IF_ERROR(finish(done_));
      advance(done_);
    }
    return {};
  }

 private:
  struct Item {
    std::size_t step = 0;
    std::size_t segment = 0;
    std::size_t number = 0;  ///< in row order
  };

  const Step& step_of(const Item& item) const { return schedule_.steps[item.step]; }
  std::size_t slot_of(const Item& item) const { return item.number % window_; }

  void advance(Item& item) const {
    ++item.number;
    if (++item.segment < schedule_.segments_of(step_of(item))) return;
    item.segment = 0;
    ++item.step;
  }

  /// See Schedule for the rules.
  bool may_start() const {
    if (next_.step == schedule_.steps.size() || next_.number - done_.number == window_)
      return false;
    if (next_.step == done_.step || schedule_.independent) return true;
    return !step_of(next_).fence && next_.step == done_.step + 1 && next_.segment < done_.segment;
  }

  template <typename View>
  View cut(View view, const Item& item) const {
    return segment(view, schedule_.unit, schedule_.segments_of(step_of(item)), item.segment);
  }

  /// Where an item's bytes arrive.
  base::Bytes landing(const Item& item) {
    const Step& step = step_of(item);
    const base::Bytes into = cut(step.into, item);
    if (step.combine == Combine::kReplace) return into;
    return base::slice(scratch_.view(), slot_of(item) * slot_bytes_, into.size());
  }

  void start(const Item& item) {
    const Step& step = step_of(item);
    if (step.from == kNobody && step.to == kNobody) return;
    const transport::Tag tag = operation_.tag(item.number);
    const std::size_t slot = slot_of(item);
    if (const base::Bytes into = landing(item); step.from != kNobody && !into.empty()) {
      receiving_[slot] = operation_.link(step.from).recv(tag, into);
    }
    if (const base::ConstBytes send = cut(step.send, item); step.to != kNobody && !send.empty()) {
      sending_[slot] = operation_.link(step.to).send(tag, send);
    }
  }

  base::Status finish(const Item& item) {
    const Step& step = step_of(item);
    const std::size_t slot = slot_of(item);
    const Operation::Position at{item.step, schedule_.steps.size()};
    if (step.from != kNobody) {
      GEARSHIFT_RETURN_IF_ERROR(operation_.await_recv(receiving_[slot], step.from, at));
      receiving_[slot] = {};
    }
    if (step.to != kNobody) {
      GEARSHIFT_RETURN_IF_ERROR(operation_.await_send(sending_[slot], step.to, at));
      sending_[slot] = {};
    }
    if (step.from != kNobody) combine(step, item);
    return {};
  }

  void combine(const Step& step, const Item& item) {
    const base::Bytes into = cut(step.into, item);
    if (into.empty()) return;
    if (step.combine == Combine::kOwnFirst) {
      kernels::reduce_into(schedule_.dtype, schedule_.op, into, cut(step.own, item), landing(item));
    } else if (step.combine == Combine::kReceivedFirst) {
      kernels::reduce_into(schedule_.dtype, schedule_.op, into, landing(item), cut(step.own, item));
    }
    if (step.combine != Combine::kReplace) {
      scheduler_.work(base::Work::kCombine, into.size());
    }
    if (step.ends_mean && schedule_.op == base::ReduceOp::kMean) {
      kernels::divide(schedule_.dtype, into, operation_.size());
    }
  }

  Operation& operation_;
  base::Scheduler& scheduler_;
  const Schedule& schedule_;
  Item next_;  ///< to be started
  Item done_;  ///< to be finished
  const std::size_t window_;
  const std::size_t slot_bytes_;
  Scratch scratch_;
  transport::Request receiving_[kWindow];
  transport::Request sending_[kWindow];
};

}  // namespace

std::size_t Schedule::items() const {
  std::size_t sum = 0;
  for (const Step& step : steps) sum += segments_of(step);
  return sum;
}

base::Status run(Operation& operation, const Schedule& schedule) {
  operation.reserve(schedule.items());
  return Pipeline(operation, schedule).run();
}

}  // namespace gearshift::collectives
