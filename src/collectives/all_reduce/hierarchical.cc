#include "collectives/all_reduce/hierarchical.h"

#include <algorithm>
#include <vector>

#include "collectives/all_reduce/recursive_doubling.h"
#include "collectives/ring.h"
#include "collectives/schedule.h"
#include "collectives/segments.h"
#include "gearshift/collectives/cost.h"

namespace gearshift::collectives {
namespace {

class Hierarchy {
 public:
  Hierarchy(const group::Topology& topology, int rank, base::Bytes data, Schedule& schedule)
      : topology_(topology),
        members_(topology.members(topology.host_of(rank))),
        place_(index_of(members_, rank)),
        slices_(equal_parts(data, schedule.unit, topology.smallest_host())),
        schedule_(schedule) {
    const std::size_t slice = slices_[0].size();
    doubling_ = topology.hosts() == 1 || doubles_between_hosts(slice, Network(topology));
    const std::size_t part = doubling_ ? slice : slice / static_cast<std::size_t>(topology.hosts());
    schedule.segments = segments_for(std::max(part, slice / 4));
  }

  void append() {
    append_scatter();
    const std::size_t between = schedule_.steps.size();
    if (topology_.hosts() > 1) append_between_hosts();
    const std::size_t back = schedule_.steps.size();
    append_gather();
    for (const std::size_t first : {between, back}) {
      if (first < schedule_.steps.size()) schedule_.steps[first].fence = true;
    }
  }

 private:
  static int index_of(const std::vector<int>& ranks, int rank) {
    return static_cast<int>(std::find(ranks.begin(), ranks.end(), rank) - ranks.begin());
  }

  int owners() const { return static_cast<int>(slices_.size()); }
  bool owns(int place) const { return place < owners(); }
  base::Bytes slice(int place) const { return slices_[static_cast<std::size_t>(place)]; }
  int member(int place) const { return members_[static_cast<std::size_t>(place)]; }
  int local_size() const { return static_cast<int>(members_.size()); }

  /// In step s each rank hands the rank s places further on the slice that it owns.
  void append_scatter() {
    for (int s = 1; s < topology_.largest_host(); ++s) {
      Step step;
      if (s < local_size()) {
        const int to = modulo(place_ + s, local_size());
        if (owns(to)) {
          step.to = member(to);
          step.send = slice(to);
        }
        if (owns(place_)) {
          step.from = member(modulo(place_ - s, local_size()));
          step.into = slice(place_);
          step.combine = Combine::kReceivedFirst;
          step.own = slice(place_);
          step.ends_mean = topology_.hosts() == 1 && s == local_size() - 1;
        }
      }
      schedule_.steps.push_back(step);
    }
  }

  void append_between_hosts() {
    if (!owns(place_)) {
      // The owners' steps, counted with those of slice 0.
      Schedule owners{.segments = schedule_.segments, .unit = schedule_.unit};
      append_slice(0, owners);
      schedule_.steps.insert(schedule_.steps.end(), owners.steps.size(), Step{});
      return;
    }
    append_slice(place_, schedule_);
  }

  void append_slice(int place, Schedule& schedule) const {
    std::vector<int> ranks;
    for (const int host : topology_.host_ring()) {
      ranks.push_back(topology_.members(host)[static_cast<std::size_t>(place)]);
    }
    const auto& ring = topology_.host_ring();
    const Team team{ranks, index_of(ring, topology_.host_of(members_[0]))};
    if (doubling_) {
      append_recursive_doubling(team, slice(place), true, schedule);
      return;
    }
    const auto parts = equal_parts(slice(place), schedule.unit, team.size());
    append_ring_reduce_scatter(team, parts, parts[static_cast<std::size_t>(team.self)], true,
                               schedule);
    append_ring_all_gather(team, parts, schedule);
  }

  /// In step s each owner hands its slice to the rank s places further on.
  void append_gather() {
    for (int s = 1; s < topology_.largest_host(); ++s) {
      Step step;
      if (s < local_size()) {
        const int from = modulo(place_ - s, local_size());
        if (owns(place_)) {
          step.to = member(modulo(place_ + s, local_size()));
          step.send = slice(place_);
        }
        if (owns(from)) {
          step.from = member(from);
          step.into = slice(from);
        }
      }
      schedule_.steps.push_back(step);
    }
  }

  const group::Topology& topology_;
  const std::vector<int>& members_;  ///< of the own host
  const int place_;                  ///< among them
  const std::vector<base::Bytes> slices_;
  Schedule& schedule_;
  bool doubling_ = false;
};

}  // namespace

base::Status hierarchical_all_reduce(Operation& operation, const group::Topology& topology,
                                     base::Bytes data, base::DType dtype, base::ReduceOp op) {
  Schedule schedule{.unit = base::size_of(dtype), .dtype = dtype, .op = op};
  Hierarchy(topology, operation.rank(), data, schedule).append();
  return run(operation, schedule);
}

}  // namespace gearshift::collectives
