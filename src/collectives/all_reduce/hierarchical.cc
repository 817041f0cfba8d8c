#include "collectives/all_reduce/hierarchical.h"

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "collectives/all_reduce/recursive_doubling.h"
#include "collectives/ring.h"
#include "collectives/schedule.h"
#include "collectives/segments.h"
#include "gearshift/collectives/cost.h"

namespace gearshift::collectives {
namespace {

/// One level of it, seen from one of the ranks that take part: those of a host, among all; or
/// those of a site, among one rank of each host.
class HierarchyLevel {
 public:
  /// `topology` is over those who take part, whose ranks in the group are `ranks`. The data of the
  /// first of them has `bytes` bytes: by that, all decide. `number` is the level's, from 0 on.
  HierarchyLevel(const group::Topology& topology, std::vector<int> ranks, int self,
                 base::Bytes data, std::size_t bytes, const Network& network, int number,
                 Schedule& schedule)
      : topology_(topology),
        ranks_(std::move(ranks)),
        group_(topology.host_of(self)),
        place_(index_of(members(), self)),
        slices_(equal_parts(data, schedule.unit, topology.smallest_host())),
        slice_bytes_(part_begin(bytes / schedule.unit, slices_.size(), 1) * schedule.unit),
        network_(network),
        number_(number),
        schedule_(schedule) {
    if (topology.hosts() > 1) between_ = way_between(slice_bytes_, network, number);
    const bool ring = topology.hosts() > 1 && between_ == Between::kRing;
    const auto hosts = static_cast<std::size_t>(topology.hosts());
    const std::size_t part = ring ? slice_bytes_ / hosts : slice_bytes_;
    segments_ = segments_for(std::max(part, slice_bytes_ / 4));
  }

  void append() {
    append_scatter();
    const std::size_t between = schedule_.steps.size();
    if (topology_.hosts() > 1) append_between();
    const std::size_t back = schedule_.steps.size();
    append_gather();
    for (const std::size_t first : {between, back}) {
      if (first < schedule_.steps.size()) schedule_.steps[first].fence = true;
    }
  }

 private:
  static int index_of(const std::vector<int>& all, int one) {
    return static_cast<int>(std::find(all.begin(), all.end(), one) - all.begin());
  }

  const std::vector<int>& members() const { return topology_.members(group_); }
  int owners() const { return static_cast<int>(slices_.size()); }
  bool owns(int place) const { return place < owners(); }
  base::Bytes slice(int place) const { return slices_[static_cast<std::size_t>(place)]; }
  int rank(int one) const { return ranks_[static_cast<std::size_t>(one)]; }
  int member(int place) const { return rank(members()[static_cast<std::size_t>(place)]); }
  int local_size() const { return static_cast<int>(members().size()); }

  /// In step s each rank hands the rank s places further on the slice that it owns.
  void append_scatter() {
    for (int s = 1; s < topology_.largest_host(); ++s) {
      Step step{.segments = segments_};
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

  void append_between() {
    if (owns(place_)) {
      append_slice(place_, schedule_);
      return;
    }
    // The owners' steps, counted with those of slice 0.
    Schedule owners{.unit = schedule_.unit, .dtype = schedule_.dtype, .op = schedule_.op};
    append_slice(0, owners);
    for (const Step& step : owners.steps) {
      schedule_.steps.push_back({.segments = step.segments, .fence = step.fence});
    }
  }

  /// What the ranks with the same place in their hosts do.
  void append_slice(int place, Schedule& schedule) const {
    const auto in = [&](int host) {
      return rank(topology_.members(host)[static_cast<std::size_t>(place)]);
    };
    std::vector<int> ranks;
    if (between_ == Between::kSites) {
      for (int host = 0; host < topology_.hosts(); ++host) ranks.push_back(in(host));
      HierarchyLevel(*topology_.sites(), std::move(ranks), group_, slice(place), slice_bytes_,
                     network_, number_ + 1, schedule)
          .append();
      return;
    }
    const std::size_t first = schedule.steps.size();
    for (const int host : topology_.host_ring()) ranks.push_back(in(host));
    const Team team{ranks, index_of(topology_.host_ring(), group_)};
    if (between_ == Between::kDoubling) {
      append_recursive_doubling(team, slice(place), true, schedule);
    } else {
      const auto parts = equal_parts(slice(place), schedule.unit, team.size());
      append_ring_reduce_scatter(team, parts, parts[static_cast<std::size_t>(team.self)], true,
                                 schedule);
      append_ring_all_gather(team, parts, schedule);
    }
    for (std::size_t i = first; i < schedule.steps.size(); ++i) {
      schedule.steps[i].segments = segments_;
    }
  }

  /// In step s each owner hands its slice to the rank s places further on.
  void append_gather() {
    for (int s = 1; s < topology_.largest_host(); ++s) {
      Step step{.segments = segments_};
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
  const std::vector<int> ranks_;
  const int group_;  ///< the own host, or site
  const int place_;  ///< in it
  const std::vector<base::Bytes> slices_;
  const std::size_t slice_bytes_;  ///< of the first one
  const Network& network_;
  const int number_;
  Schedule& schedule_;
  Between between_ = Between::kDoubling;
  std::size_t segments_ = 1;
};

}  // namespace

base::Status hierarchical_all_reduce(Operation& operation, const group::Topology& topology,
                                     base::Bytes data, base::DType dtype, base::ReduceOp op) {
  Schedule schedule{.unit = base::size_of(dtype), .dtype = dtype, .op = op};
  std::vector<int> everybody(static_cast<std::size_t>(topology.size()));
  std::iota(everybody.begin(), everybody.end(), 0);
  const Network network(topology);
  HierarchyLevel(topology, std::move(everybody), operation.rank(), data, data.size(), network, 0,
                 schedule)
      .append();
  return run(operation, schedule);
}

}  // namespace gearshift::collectives
