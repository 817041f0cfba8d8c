#include "gearshift/group/topology.h"

#include <algorithm>
#include <cassert>
#include <map>
#include <numeric>

#include "group/ring_order.h"
#include "group/sites.h"

namespace gearshift::group {
namespace {

/// A ring's steps are judged by messages of this size: that of a pipelined segment.
constexpr double kTypicalBytes = 256 * 1024;

LinkSpeed slower(const LinkSpeed& a, const LinkSpeed& b) {
  return {std::max(a.latency, b.latency), std::max(a.seconds_per_byte, b.seconds_per_byte)};
}

double median(const std::vector<LinkSpeed>& links, double LinkSpeed::*number) {
  std::vector<double> values;
  for (const LinkSpeed& link : links) values.push_back(link.*number);
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// Latency and bandwidth each for itself.
LinkSpeed median(const std::vector<LinkSpeed>& links) {
  return {median(links, &LinkSpeed::latency), median(links, &LinkSpeed::seconds_per_byte)};
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
  slowest_remote_ = slowest_in_ring_ = n > 1 ? speeds_.remote : speeds_.local;
  best_.assign(n, 1 / slowest_remote_.seconds_per_byte);
  if (speeds_.between.empty() || n == 1) {
    host_ring_.resize(n);
    std::iota(host_ring_.begin(), host_ring_.end(), 0);
  } else {
    judge_links();
  }
  greatest_bandwidth_ = *std::max_element(best_.begin(), best_.end());
  for (const int host : host_ring_) {
    for (const int rank : members(host)) {
      position_[static_cast<std::size_t>(rank)] = static_cast<int>(order_.size());
      order_.push_back(rank);
    }
  }
}

void Topology::judge_links() {
  const auto n = members_.size();
  std::vector<double> costs(n * n);
  slowest_remote_ = slowest_in_ring_ = {0, 0};
  best_.assign(n, 0);
  for (std::size_t a = 0; a < n; ++a) {
    for (std::size_t b = 0; b < n; ++b) {
      if (a == b) continue;
      const LinkSpeed link = between(static_cast<int>(a), static_cast<int>(b));
      costs[a * n + b] = link.seconds(kTypicalBytes);
      slowest_remote_ = slower(slowest_remote_, link);
      best_[a] = std::max(best_[a], 1 / link.seconds_per_byte);
    }
  }
  host_ring_ = ring_order(costs, hosts());
  find_sites(costs);
  for (std::size_t i = 0; i < n; ++i) {
    slowest_in_ring_ = slower(slowest_in_ring_, between(host_ring_[i], host_ring_[(i + 1) % n]));
  }
}

void Topology::find_sites(const std::vector<double>& costs) {
  const std::vector<int> site_of = group::find_sites(costs, hosts());
  if (site_of.empty()) return;
  const auto n = static_cast<std::size_t>(*std::max_element(site_of.begin(), site_of.end())) + 1;
  std::vector<std::vector<LinkSpeed>> links(n * n);  // of hosts, by their sites; [0]: within one
  for (std::size_t a = 0; a < site_of.size(); ++a) {
    for (std::size_t b = 0; b < a; ++b) {
      const auto one = static_cast<std::size_t>(std::min(site_of[a], site_of[b]));
      const auto other = static_cast<std::size_t>(std::max(site_of[a], site_of[b]));
      links[one == other ? 0 : one * n + other].push_back(
          between(static_cast<int>(a), static_cast<int>(b)));
    }
  }
  LinkSpeeds speeds = speeds_;
  speeds.local = median(links[0]);
  speeds.between.assign(n * n, speeds.local);
  for (std::size_t one = 0; one < n; ++one) {
    for (std::size_t other = one + 1; other < n; ++other) {
      const LinkSpeed link = median(links[one * n + other]);
      speeds.between[one * n + other] = speeds.between[other * n + one] = link;
    }
  }
  sites_ = std::make_shared<const Topology>(site_of, std::move(speeds));
}

Topology Topology::subset(const std::vector<int>& ranks) const {
  std::vector<int> labels;
  std::vector<int> kept;  // hosts, in the order in which the new topology numbers them
  std::vector<bool> seen(members_.size());
  for (const int rank : ranks) {
    const int host = host_of(rank);
    labels.push_back(host);
    if (!seen[static_cast<std::size_t>(host)]) kept.push_back(host);
    seen[static_cast<std::size_t>(host)] = true;
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
