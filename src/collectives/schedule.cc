#include "collectives/schedule.h"

#include <algorithm>
#include <vector>

#include "collectives/in_flight.h"
#include "collectives/scratch.h"
#include "collectives/segments.h"
#include "gearshift/kernels/reduce.h"

namespace gearshift::collectives {
namespace {

/// Items whose receives may be posted beyond the one that is being finished, and those of them that
/// are received into scratch; more where more are under way.
constexpr std::size_t kAhead = 16;
constexpr std::size_t kSlots = 8;
static_assert(kWindow <= kSlots && kSlots <= kAhead);

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

/// Items that can be under way at the same time, of `most` at most.
std::size_t window_of(const Schedule& schedule, std::size_t most) {
  if (schedule.independent) return std::min(most, schedule.items());
  std::size_t segments = 1;
  for (const Step& step : schedule.steps) segments = std::max(segments, schedule.segments_of(step));
  return std::min(most, segments);
}

/// Whether two views share memory. Phantoms might.
bool overlap(base::ConstBytes a, base::ConstBytes b) {
  if (a.empty() || b.empty()) return false;
  if (a.data() == nullptr || b.data() == nullptr) return true;
  return a.data() < b.data() + b.size() && b.data() < a.data() + a.size();
}

class Pipeline {
 public:
  Pipeline(Operation& operation, const Schedule& schedule)
      : operation_(operation),
        scheduler_(operation.scheduler()),
        schedule_(schedule),
        window_(window_of(schedule, in_flight(operation.group()))),
        slots_(window_of(schedule, std::max(kSlots, window_))),
        ahead_(std::max(window_of(schedule, kAhead), window_)),
        slot_bytes_(scratch_segment_bytes(schedule)),
        scratch_(slot_bytes_ * slots_, uses_phantoms(schedule)),
        receiving_(ahead_),
        sending_(window_) {}

  ~Pipeline() {
    // After an error: peers that still send must not find memory that is gone.
    for (const transport::Request& request : receiving_) operation_.withdraw(request);
    for (const transport::Request& request : sending_) operation_.withdraw(request);
  }
  Pipeline(const Pipeline&) = delete;
  Pipeline& operator=(const Pipeline&) = delete;

  base::Status run() {
    while (done_.step < schedule_.steps.size()) {
      for (; may_start(); advance(next_)) start(next_);
      for (; may_expect(); advance(expected_)) expect(expected_);
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

  /// Whether an item may be received before its turn: nothing ahead of it needs the memory. So its
  /// bytes go there at once, where otherwise they would be kept, and copied, when they come early.
  bool may_expect() const {
    if (expected_.step == schedule_.steps.size()) return false;
    const std::size_t ahead = expected_.number - done_.number;
    const Step& step = step_of(expected_);
    if (ahead >= ahead_ || (step.fence && expected_.step != done_.step)) return false;
    if (step.combine != Combine::kReplace) return ahead < slots_;
    const base::ConstBytes place = cut(step.into, expected_);
    for (Item item = done_; item.number < expected_.number; advance(item)) {
      const Step& other = step_of(item);
      if (overlap(place, cut(other.send, item)) || overlap(place, cut(other.own, item)) ||
          overlap(place, cut(base::ConstBytes(other.into), item))) {
        return false;
      }
    }
    return true;
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
    return base::slice(scratch_.view(), item.number % slots_ * slot_bytes_, into.size());
  }

  void expect(const Item& item) {
    const Step& step = step_of(item);
    if (step.from == kNobody) return;
    if (const base::Bytes into = landing(item); !into.empty()) {
      receiving_[item.number % ahead_] =
          operation_.link(step.from).recv(operation_.tag(item.number), into);
    }
  }

  void start(const Item& item) {
    if (item.number == expected_.number) {
      expect(item);
      advance(expected_);
    }
    const Step& step = step_of(item);
    if (step.to == kNobody) return;
    if (const base::ConstBytes send = cut(step.send, item); !send.empty()) {
      sending_[item.number % window_] =
          operation_.link(step.to).send(operation_.tag(item.number), send);
    }
  }

  base::Status finish(const Item& item) {
    const Step& step = step_of(item);
    const Operation::Position at{item.step, schedule_.steps.size()};
    if (step.from != kNobody) {
      transport::Request& request = receiving_[item.number % ahead_];
      GEARSHIFT_RETURN_IF_ERROR(operation_.await_recv(request, step.from, at));
      request = {};
    }
    if (step.to != kNobody) {
      transport::Request& request = sending_[item.number % window_];
      GEARSHIFT_RETURN_IF_ERROR(operation_.await_send(request, step.to, at));
      request = {};
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
  Item next_;      ///< to be started
  Item done_;      ///< to be finished
  Item expected_;  ///< to be received; `next_` or ahead of it
  const std::size_t window_;
  const std::size_t slots_;
  const std::size_t ahead_;
  const std::size_t slot_bytes_;
  Scratch scratch_;
  std::vector<transport::Request> receiving_;
  std::vector<transport::Request> sending_;
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
