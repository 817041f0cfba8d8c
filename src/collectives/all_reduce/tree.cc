#include "collectives/all_reduce/tree.h"

#include <algorithm>

#include "collectives/schedule.h"
#include "collectives/segments.h"
#include "collectives/two_trees.h"

namespace gearshift::collectives {
namespace {

constexpr std::size_t kPacketBytes = 64 * 1024;
constexpr std::size_t kMaxPackets = 256;

}  // namespace

std::size_t tree_packets(std::size_t bytes) {
  const std::size_t pairs = (bytes + 2 * kPacketBytes - 1) / (2 * kPacketBytes);
  return 2 * std::clamp<std::size_t>(pairs, 1, kMaxPackets / 2);
}

base::Status tree_all_reduce(Operation& operation, const Team& team, base::Bytes data,
                             base::DType dtype, base::ReduceOp op) {
  Schedule schedule{.unit = base::size_of(dtype), .dtype = dtype, .op = op};
  const std::size_t packets = tree_packets(data.size());
  const auto packet = [&](std::size_t q) { return segment(data, schedule.unit, packets, q); };
  const auto timetable = TreeTimetable::find(team.size(), packets);
  schedule.steps.resize(timetable->steps());
  for (const TreeStep& t : timetable->of(team.self)) {
    Step& step = schedule.steps[t.number];
    if (t.to >= 0) {
      step.to = team.rank(t.to);
      step.send = packet(t.sent);
    }
    if (t.from >= 0) {
      step.from = team.rank(t.from);
      step.into = packet(t.received);
      step.ends_mean = t.completes;
    }
    if (t.combines) {
      step.combine = Combine::kReceivedFirst;
      step.own = step.into;
    }
  }
  return run(operation, schedule);
}

}  // namespace gearshift::collectives
