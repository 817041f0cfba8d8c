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
    largest = std::max(largest, segment(step.into, schedule.unit, schedule.segments, 0).size());
  }
  return largest;
}

bool uses_phantoms(const Schedule& schedule) {
  return std::any_of(schedule.steps.begin(), schedule.steps.end(),
                     [](const Step& step) { return base::is_phantom(step.into); });
}

std::size_t window_of(const Schedule& schedule) {
  return std::min(kWindow, schedule.independent ? schedule.items() : schedule.segments);
}

class Pipeline {
 public:
  Pipeline(Operation& operation, const Schedule& schedule)
      : operation_(operation),
        schedule_(schedule),
        items_(schedule.items()),
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
    for (std::size_t item = 0; item < std::min(window_, items_); ++item) start(item);
    for (std::size_t item = 0; item < items_; ++item) {
      GEARSHIFT_RETURN_IF_ERROR(finish(item));
      if (item + window_ < items_) start(item + window_);
    }
    return {};
  }

 private:
  const Step& step_of(std::size_t item) const { return schedule_.steps[item / schedule_.segments]; }

  template <typename View>
  View cut(View view, std::size_t item) const {
    return segment(view, schedule_.unit, schedule_.segments, item % schedule_.segments);
  }

  /// Where an item's bytes arrive.
  base::Bytes landing(std::size_t item) {
    const Step& step = step_of(item);
    const base::Bytes into = cut(step.into, item);
    if (step.combine == Combine::kReplace) return into;
    return base::slice(scratch_.view(), (item % window_) * slot_bytes_, into.size());
  }

  void start(std::size_t item) {
    const Step& step = step_of(item);
    const transport::Tag tag = operation_.tag(item);
    const std::size_t slot = item % window_;
    if (const base::Bytes into = landing(item); step.from != kNobody && !into.empty()) {
      receiving_[slot] = operation_.link(step.from).recv(tag, into);
    }
    if (const base::ConstBytes send = cut(step.send, item); step.to != kNobody && !send.empty()) {
      sending_[slot] = operation_.link(step.to).send(tag, send);
    }
  }

  base::Status finish(std::size_t item) {
    const Step& step = step_of(item);
    const std::size_t slot = item % window_;
    const Operation::Position at{item / schedule_.segments, schedule_.steps.size()};
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

  void combine(const Step& step, std::size_t item) {
    const base::Bytes into = cut(step.into, item);
    if (into.empty()) return;
    if (step.combine == Combine::kOwnFirst) {
      kernels::reduce_into(schedule_.dtype, schedule_.op, into, cut(step.own, item), landing(item));
    } else if (step.combine == Combine::kReceivedFirst) {
      kernels::reduce_into(schedule_.dtype, schedule_.op, into, landing(item), cut(step.own, item));
    }
    if (step.combine != Combine::kReplace) {
      operation_.group().scheduler().work(base::Work::kCombine, into.size());
    }
    if (step.ends_mean && schedule_.op == base::ReduceOp::kMean) {
      kernels::divide(schedule_.dtype, into, operation_.size());
    }
  }

  Operation& operation_;
  const Schedule& schedule_;
  const std::size_t items_;
  const std::size_t window_;
  const std::size_t slot_bytes_;
  Scratch scratch_;
  transport::Request receiving_[kWindow];
  transport::Request sending_[kWindow];
};

}  // namespace

base::Status run(Operation& operation, const Schedule& schedule) {
  operation.reserve(schedule.items());
  return Pipeline(operation, schedule).run();
}

}  // namespace gearshift::collectives
