#include "gearshift/group/topology.h"

#include <algorithm>
#include <cassert>
#include <map>

#include "group/ring_order.h"

namespace gearshift::group {
namespace {

/// A ring's steps are judged by messages of this size: that of a pipelined segment.
constexpr double kTypicalBytes = 256 * 1024;

LinkSpeed slower(const LinkSpeed& a, const LinkSpeed& b) {
  return {std::max(a.latency, b.latency), std::max(a.seconds_per_byte, b.seconds_per_byte)};
}

}  // namespace

Topology::Topology(const std::vector<int>& host_of, LinkSpeeds speeds)
    : speeds_(std::move(speeds)), position_(host_of.size()) {
  std::map<int, int> number_of;
  for (const int label : host_of) {
    const auto [found, fresh] = number_of.try_emplace(label, hosts());
    if (fresh) members_.emplace_back();
    members_[static_cast<std::size_t>(found->second)].push_back(size());
    host_of_.push_back(found->second);
  }
  assert(speeds_.between.empty() ||
         speeds_.between.size() == static_cast<std::size_t>(hosts()) * members_.size());
  const auto [smallest, largest] =
      std::minmax_element(members_.begin(), members_.end(),
                          [](const auto& a, const auto& b) { return a.size() < b.size(); });
  if (!members_.empty()) {
    smallest_host_ = static_cast<int>(smallest->size());
    largest_host_ = static_cast<int>(largest->size());
  }
  find_ring();
}

Topology Topology::one_host(int ranks, LinkSpeeds speeds) {
  return Topology(std::vector<int>(static_cast<std::size_t>(ranks)), std::move(speeds));
}

LinkSpeed Topology::between(int host, int other) const {
  if (host == other) return speeds_.local;
  if (speeds_.between.empty()) return speeds_.remote;
  const auto at = [&](int a, int b) {
    return speeds_
        .between[static_cast<std::size_t>(a) * members_.size() + static_cast<std::size_t>(b)];
  };
  return slower(at(host, other), at(other, host));
}

void Topology::find_ring() {
  const auto n = members_.size();
  std::vector<double> costs(n * n);
  slowest_remote_ = slowest_in_ring_ = n > 1 ? LinkSpeed{0, 0} : speeds_.local;
  for (std::size_t a = 0; a < n; ++a) {
    for (std::size_t b = 0; b < n; ++b) {
      if (a == b) continue;
      const LinkSpeed link = between(static_cast<int>(a), static_cast<int>(b));
      costs[a * n + b] = link.seconds(kTypicalBytes);
      slowest_remote_ = slower(slowest_remote_, link);
    }
  }
  host_ring_ = ring_order(costs, hosts());
  for (std::size_t i = 0; i < n; ++i) {
    const int host = host_ring_[i];
    for (const int rank : members(host)) {
      position_[static_cast<std::size_t>(rank)] = static_cast<int>(order_.size());
      order_.push_back(rank);
    }
    if (n > 1) {
      slowest_in_ring_ = slower(slowest_in_ring_, between(host, host_ring_[(i + 1) % n]));
    }
  }
}

double Topology::bandwidth(int host) const {
  double best = 0;
  for (int other = 0; other < hosts(); ++other) {
    if (other != host) best = std::max(best, 1 / between(host, other).seconds_per_byte);
  }
  return hosts() == 1 ? 1 / speeds_.local.seconds_per_byte : best;
}

Topology Topology::subset(const std::vector<int>& ranks) const {
  std::vector<int> labels;
  std::vector<int> kept;  // hosts, in the order in which the new topology numbers them
  for (const int rank : ranks) {
    labels.push_back(host_of(rank));
    if (std::find(kept.begin(), kept.end(), labels.back()) == kept.end()) {
      kept.push_back(labels.back());
    }
  }
  LinkSpeeds speeds = speeds_;
  speeds.between.clear();
  if (!speeds_.between.empty()) {
    for (const int a : kept) {
      for (const int b : kept) speeds.between.push_back(between(a, b));
    }
  }
  return Topology(labels, std::move(speeds));
}

}  // namespace gearshift::group
