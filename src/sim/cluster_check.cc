#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <unordered_map>
#include <unordered_set>

#include "sim/check.h"
#include "sim/suggest.h"

namespace gearshift::sim {
namespace {

/// Of all hosts together: beyond, a simulation would not end anyway.
constexpr std::int64_t kMaxProcesses = 1'000'000;

/// What each process keeps of each other one. Measured: 110 to 170 bytes, of which links, and what
/// was sent over them, are known to take more than this.
constexpr double kBytesPerPair = 64;

/// Why this machine's memory cannot hold a simulation of so many processes; empty if it may.
std::string too_large_for_memory(std::int64_t processes) {
  constexpr double kGigabyte = 1e9;
  const double needed = kBytesPerPair * static_cast<double>(processes) * processes;
  const double there = static_cast<double>(::sysconf(_SC_PHYS_PAGES)) * ::sysconf(_SC_PAGESIZE);
  if (there <= 0 || needed <= there) return {};
  const auto gigabytes = [](double bytes) {
    return std::to_string(std::llround(bytes / kGigabyte)) + " GB";
  };
  return "to simulate " + std::to_string(processes) + " processes takes at least " +
         gigabytes(needed) + " of memory, and this machine has " + gigabytes(there);
}

template <typename Named>
std::vector<std::string> names_of(const std::vector<Named>& all) {
  std::vector<std::string> names;
  for (const Named& one : all) names.push_back(one.name);
  return names;
}

template <typename Named>
void check_names(const std::vector<Named>& all, const char* section, Checks& checks) {
  std::unordered_set<std::string_view> seen;
  for (std::size_t i = 0; i < all.size() && !checks.failed(); ++i) {
    checks.at(section, i);
    if (all[i].name.empty()) checks.fail("name", "a name must not be empty");
    if (!seen.insert(all[i].name).second) {
      checks.fail("name", "\"" + all[i].name + "\" is the name of another one already");
    }
  }
}

template <typename Named>
void check_reference(const char* key, const std::string& wanted, const char* kind,
                     const std::vector<Named>& all, Checks& checks) {
  const auto is_it = [&](const Named& one) { return one.name == wanted; };
  if (std::none_of(all.begin(), all.end(), is_it)) {
    checks.fail(key, std::string("there is no ") + kind + " \"" + wanted + "\"" +
                         did_you_mean(wanted, names_of(all)));
  }
}

void check_zones(const Cluster& cluster, Checks& checks) {
  check_names(cluster.zones, "zones", checks);
  std::unordered_map<std::string_view, std::size_t> index;
  for (std::size_t i = 0; i < cluster.zones.size(); ++i) index.emplace(cluster.zones[i].name, i);
  for (std::size_t i = 0; i < cluster.zones.size() && !checks.failed(); ++i) {
    const Zone& zone = cluster.zones[i];
    checks.at("zones", i);
    checks.rate("bandwidth", zone.bandwidth, Bound::kNotNegative);
    checks.time("latency", zone.latency);
    if (!zone.parent.empty()) {
      check_reference("parent", zone.parent, "zone", cluster.zones, checks);
    }
  }
  // From each zone to the root: zones whose way was found before are not walked again.
  std::vector<bool> reaches_root(cluster.zones.size());
  for (std::size_t i = 0; i < cluster.zones.size() && !checks.failed(); ++i) {
    std::vector<std::size_t> way;
    std::string text;
    for (std::size_t at = i; !reaches_root[at]; at = index.at(cluster.zones[at].parent)) {
      text += "\"" + cluster.zones[at].name + "\"";
      if (std::find(way.begin(), way.end(), at) != way.end()) {
        checks.at("zones", i);
        checks.fail("parent", "the zones form a cycle: " + text);
        return;
      }
      way.push_back(at);
      if (cluster.zones[at].parent.empty()) break;
      text += " below ";
    }
    for (const std::size_t at : way) reaches_root[at] = true;
  }
}

void check_host(const Host& host, Checks& checks) {
  checks.number("a number of workers", "workers", host.workers, Bound::kNotNegative);
  checks.number("a number of servers", "servers", host.servers, Bound::kNotNegative);
  checks.number("a speed", "speed", host.speed, Bound::kPositive, kFactorLimits);
  checks.rate("bandwidth", host.bandwidth);
  checks.time("latency", host.latency);
  checks.time("queue", host.queue);
  checks.rate("local_bandwidth", host.model.local_bandwidth);
  checks.time("local_latency", host.model.local_latency);
  checks.time("per_message", host.model.per_message);
  checks.rate("reduce_bandwidth", host.model.reduce_bandwidth);
  checks.rate("update_bandwidth", host.model.update_bandwidth);
  checks.rate("copy_bandwidth", host.model.copy_bandwidth);
}

void check_hosts(const Cluster& cluster, Checks& checks) {
  checks.at("hosts");
  if (cluster.hosts.empty()) checks.fail("", "a cluster needs at least one host");
  check_names(cluster.hosts, "hosts", checks);
  std::int64_t workers = 0;
  std::int64_t servers = 0;
  std::unordered_set<std::string_view> zones;
  for (const Zone& zone : cluster.zones) zones.insert(zone.name);
  for (std::size_t i = 0; i < cluster.hosts.size() && !checks.failed(); ++i) {
    const Host& host = cluster.hosts[i];
    checks.at("hosts", i);
    check_host(host, checks);
    if (!host.zone.empty() && !zones.contains(host.zone)) {
      check_reference("zone", host.zone, "zone", cluster.zones, checks);
    }
    workers += host.workers;
    servers += host.servers;
  }
  checks.at("hosts");
  if (workers == 0) checks.fail("", "no host has a worker");
  if (workers + servers > kMaxProcesses) {
    checks.fail("", std::to_string(workers + servers) + " processes are more than " +
                        std::to_string(kMaxProcesses) + ", the most that a simulation takes");
  }
  const std::string too_large = too_large_for_memory(workers + servers);
  if (!too_large.empty()) checks.fail("", too_large);
}

void check_straggler(const Straggler& straggler, Checks& checks) {
  checks.number("a factor", "factor", straggler.factor, Bound::kPositive, kFactorLimits);
  if (straggler.from_step < 1) {
    checks.fail("from_step", "steps count from 1, this is " + std::to_string(straggler.from_step));
  }
  if (straggler.to_step != 0 && straggler.to_step < straggler.from_step) {
    checks.fail("to_step", std::to_string(straggler.to_step) + " is before from_step, " +
                               std::to_string(straggler.from_step));
  }
  if (straggler.period < 1) {
    checks.fail("period", "a period must be positive, this is " + std::to_string(straggler.period));
  }
  if (straggler.length < 1 || straggler.length > straggler.period) {
    checks.fail("length", "a length must be between 1 and period, " +
                              std::to_string(straggler.period) + "; this is " +
                              std::to_string(straggler.length));
  }
  if (!(straggler.probability >= 0 && straggler.probability <= 1)) {
    checks.fail("probability",
                "a probability must be between 0 and 1, this is " + shown(straggler.probability));
  }
}

void check_failures(const Cluster& cluster, Checks& checks) {
  std::map<std::string_view, std::vector<std::size_t>> by_host;
  for (std::size_t i = 0; i < cluster.failures.size() && !checks.failed(); ++i) {
    const Failure& failure = cluster.failures[i];
    checks.at("failures", i);
    check_reference("host", failure.host, "host", cluster.hosts, checks);
    checks.time("at", failure.at);
    if (failure.recovers_at) {
      checks.time("recovers_at", *failure.recovers_at);
      if (*failure.recovers_at <= failure.at) {
        checks.fail("recovers_at", "the host recovers at " + shown(*failure.recovers_at) +
                                       " s, not after it fails, at " + shown(failure.at) + " s");
      }
    }
    by_host[failure.host].push_back(i);
  }
  for (auto& [host, indices] : by_host) {
    const auto& all = cluster.failures;
    std::stable_sort(indices.begin(), indices.end(),
                     [&](std::size_t a, std::size_t b) { return all[a].at < all[b].at; });
    for (std::size_t k = 1; k < indices.size(); ++k) {
      const Failure& before = all[indices[k - 1]];
      if (before.recovers_at && *before.recovers_at <= all[indices[k]].at) continue;
      checks.at("failures", indices[k]);
      checks.fail("at", "the host \"" + std::string(host) + "\" is down already, since " +
                            shown(before.at) + " s");
    }
  }
}

}  // namespace

std::optional<Problem> find_problem(const Cluster& cluster) {
  Checks checks;
  check_zones(cluster, checks);
  check_hosts(cluster, checks);
  if (cluster.variability) checks.merge(find_problem(*cluster.variability));
  for (std::size_t i = 0; i < cluster.stragglers.size() && !checks.failed(); ++i) {
    checks.at("stragglers", i);
    check_reference("host", cluster.stragglers[i].host, "host", cluster.hosts, checks);
    check_straggler(cluster.stragglers[i], checks);
  }
  check_failures(cluster, checks);
  return std::move(checks).problem();
}

}  // namespace gearshift::sim
