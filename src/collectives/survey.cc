#include "gearshift/collectives/survey.h"

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "collectives/all_gather/bruck.h"
#include "collectives/operation.h"
#include "collectives/probe.h"
#include "collectives/ring.h"
#include "gearshift/base/serial.h"
#include "gearshift/kernels/reduce.h"

namespace gearshift::collectives {
namespace {

/// What each rank tells the others.
struct Remark {
  std::uint64_t known = 0;  ///< hash of the speeds that it knows; 0: none
  std::int32_t lowest = 0;  ///< the lowest rank on its host
  Measure measure = Measure::kNever;
  std::uint8_t unused[3] = {};
};
static_assert(sizeof(Remark) == 16);

std::uint64_t hash_of(const std::optional<group::LinkSpeeds>& speeds) {
  if (!speeds) return 0;
  base::Writer out;
  const auto put = [&](const group::LinkSpeed& s) { out.put(s.latency).put(s.seconds_per_byte); };
  put(speeds->local);
  put(speeds->remote);
  for (const group::LinkSpeed& link : speeds->between) put(link);
  out.put(speeds->reduce_seconds_per_byte);
  return std::max<std::uint64_t>(1, kernels::hash64(out.view()));
}

int lowest_on_host(const group::Group& group) {
  for (int r = 0; r < group.rank().value; ++r) {
    if (group.link(base::Rank(r)).capabilities().same_host) return r;
  }
  return group.rank().value;
}

bool all_on_one_host(const group::Group& group) {
  return std::all_of(group.links().begin(), group.links().end(), [](const auto& link) {
    return link == nullptr || link->capabilities().same_host;
  });
}

base::Result<std::vector<Remark>> exchange(group::Group& group, const Remark& own) {
  std::vector<int> everybody(static_cast<std::size_t>(group.size()));
  std::iota(everybody.begin(), everybody.end(), 0);
  std::vector<Remark> remarks(everybody.size());
  remarks[static_cast<std::size_t>(group.rank().value)] = own;
  Operation operation(group, "survey of the hosts", "bruck", {});
  const auto parts =
      equal_parts(std::as_writable_bytes(std::span(remarks)), sizeof(Remark), group.size());
  GEARSHIFT_RETURN_IF_ERROR(
      bruck_all_gather(operation, {everybody, group.rank().value}, parts, sizeof(Remark)));
  return remarks;
}

/// Labels of hosts. Ranks that see each other, if only by way of a third one, are on one host.
std::vector<int> hosts_of(const std::vector<Remark>& remarks) {
  std::vector<int> hosts;
  for (std::size_t r = 0; r < remarks.size(); ++r) {
    const int lowest = remarks[r].lowest;
    const bool earlier = lowest >= 0 && static_cast<std::size_t>(lowest) < r;
    hosts.push_back(earlier ? hosts[static_cast<std::size_t>(lowest)] : static_cast<int>(r));
  }
  return hosts;
}

Measure merged(const std::vector<Remark>& remarks) {
  Measure result = Measure::kIfSeveralHosts;
  for (const Remark& r : remarks) {
    if (r.measure == Measure::kAlways) return Measure::kAlways;
    if (r.measure == Measure::kNever) result = Measure::kNever;
  }
  return result;
}

bool fits(const group::LinkSpeeds& speeds, const group::Topology& hosts) {
  const auto n = static_cast<std::size_t>(hosts.hosts());
  return speeds.between.empty() || speeds.between.size() == n * n;
}

base::Result<group::LinkSpeeds> speeds_of(group::Group& group, const group::Topology& hosts,
                                          const std::vector<Remark>& remarks,
                                          const SurveyOptions& options) {
  const Measure measure = merged(remarks);
  if (measure == Measure::kNever) return group::LinkSpeeds{};
  if (measure == Measure::kIfSeveralHosts) {
    if (hosts.hosts() == 1) return group::LinkSpeeds{};
    const bool all_know = std::all_of(remarks.begin(), remarks.end(), [&](const Remark& r) {
      return r.known != 0 && r.known == remarks[0].known;
    });
    if (all_know && fits(*options.known, hosts)) return *options.known;
  }
  return probe(group, hosts, options.budget);
}

}  // namespace

base::Result<std::shared_ptr<const group::Topology>> survey(group::Group& group,
                                                            const SurveyOptions& options) {
  std::shared_ptr<const group::Topology> topology;
  if (group.size() == 1) {
    topology = std::make_shared<const group::Topology>(group::Topology::one_host(1));
  } else {
    const Remark own{.known = hash_of(options.known),
                     .lowest = lowest_on_host(group),
                     .measure = options.measure};
    GEARSHIFT_ASSIGN_OR_RETURN(const auto remarks, exchange(group, own));
    const std::vector<int> hosts = hosts_of(remarks);
    GEARSHIFT_ASSIGN_OR_RETURN(auto speeds,
                               speeds_of(group, group::Topology(hosts), remarks, options));
    topology = std::make_shared<const group::Topology>(hosts, std::move(speeds));
  }
  group.set_topology(topology);
  return topology;
}

base::Result<std::shared_ptr<const group::Topology>> topology_of(group::Group& group) {
  if (group.topology()) return group.topology();
  // Links see their host alike from both ends, so either all ranks come by here or none.
  if (!all_on_one_host(group)) return survey(group, {.measure = Measure::kNever});
  group.set_topology(
      std::make_shared<const group::Topology>(group::Topology::one_host(group.size())));
  return group.topology();
}

}  // namespace gearshift::collectives
