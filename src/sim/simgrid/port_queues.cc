#include "sim/simgrid/port_queues.h"

#include <algorithm>

namespace gearshift::sim {

namespace {

void take_one(std::map<int, int>& counts, int key) {
  const auto entry = counts.find(key);
  if (--entry->second == 0) counts.erase(entry);
}

}  // namespace

PortQueues::PortQueues(const Cluster& cluster) : targets_(cluster.hosts.size()) {
  for (const Host& host : cluster.hosts) {
    ports_.push_back({.buffer = host.queue, .rate = host.bandwidth, .senders = {}});
    any_ = any_ || host.queue > 0;
  }
}

/// Seconds of queue per second.
double PortQueues::growth(const Port& port) const {
  double comes = 0;
  for (const auto& [host, pieces] : port.senders) {
    const auto index = static_cast<std::size_t>(host);
    comes += ports_[index].rate / static_cast<double>(targets_[index].size());
  }
  return comes / port.rate - 1;
}

double PortQueues::level(const Port& port, double now) const {
  if (port.buffer == 0) return 0;
  return std::clamp(port.level + (now - port.since) * growth(port), 0.0, port.buffer);
}

void PortQueues::settle(int host, double now) {
  Port& port = at(host);
  port.level = level(port, now);
  port.since = now;
}

void PortQueues::settle_around(int from, int to, double now) {
  settle(to, now);
  for (const auto& [host, pieces] : targets_[static_cast<std::size_t>(from)]) settle(host, now);
}

void PortQueues::begin(int from, int to, double now) {
  if (!any_) return;
  settle_around(from, to, now);
  ++at(to).senders[from];
  ++targets_[static_cast<std::size_t>(from)][to];
}

void PortQueues::end(int from, int to, double now) {
  if (!any_) return;
  settle_around(from, to, now);
  take_one(at(to).senders, from);
  take_one(targets_[static_cast<std::size_t>(from)], to);
}

double PortQueues::wait(int from, int to, double now) const {
  if (from == to) return 0;  // what stays on the host meets no port
  const Port& port = at(to);
  const bool others = std::any_of(port.senders.begin(), port.senders.end(),
                                  [from](const auto& sender) { return sender.first != from; });
  return others ? level(port, now) : 0;  // behind its own alone: the stream sees to that
}

std::vector<double> PortQueues::levels(double now) const {
  std::vector<double> levels;
  for (const Port& port : ports_) {
    if (port.buffer > 0) levels.push_back(level(port, now));
  }
  return levels;
}

}  // namespace gearshift::sim
