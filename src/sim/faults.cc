#include "sim/faults.h"

#include <algorithm>
#include <cstdio>
#include <mutex>

namespace gearshift::sim {
namespace {

std::string seconds_text(double seconds) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.6g s", seconds);
  return text;
}

int index_of_host(const Failure& failure, const Cluster& cluster) {
  const auto host = std::find_if(cluster.hosts.begin(), cluster.hosts.end(),
                                 [&](const Host& h) { return h.name == failure.host; });
  return static_cast<int>(host - cluster.hosts.begin());
}

/// Of a host without processes nobody misses anything.
bool is_missed(const Failure& failure, const Cluster& cluster) {
  const Host& host = cluster.hosts[static_cast<std::size_t>(index_of_host(failure, cluster))];
  return host.workers + host.servers > 0;
}

}  // namespace

Faults::Faults(const Cluster& cluster, base::Duration detection, SimScheduler& scheduler,
               Network& network, JobMonitor& monitor)
    : cluster_(cluster),
      detection_(detection),
      scheduler_(scheduler),
      network_(network),
      monitor_(monitor),
      failures_(cluster.failures),
      ending_(scheduler.make_monitor()) {
  std::erase_if(failures_, [&](const Failure& failure) { return !is_missed(failure, cluster); });
  // Of those at the same time, the hosts that stay away first: they are what ends training.
  std::stable_sort(failures_.begin(), failures_.end(), [](const Failure& a, const Failure& b) {
    return a.at != b.at ? a.at < b.at : !a.recovers_at && b.recovers_at;
  });
}

void Faults::begin(base::TimePoint start) {
  if (!start_) start_ = start;
  if (task_ || next_ == failures_.size()) return;
  ended_ = false;
  task_ = scheduler_.spawn("failures", [this] { run(); });
}

void Faults::end() {
  if (!task_) return;
  {
    std::lock_guard<base::Monitor> lock(*ending_);
    ended_ = true;
    ending_->notify_all();
  }
  task_.reset();
}

bool Faults::wait_until(base::TimePoint when) {
  std::lock_guard<base::Monitor> lock(*ending_);
  while (!ended_ && scheduler_.now() < when) ending_->wait_until(when);
  return !ended_;
}

void Faults::run() {
  const Failure& failure = failures_[next_];
  if (!wait_until(at(failure.at))) return;
  network_.silence(index_of_host(failure, cluster_), true);
  // Even if the job has nothing more to ask of it: its processes are gone.
  if (!wait_until(at(failure.at) + detection_)) return;
  happened_ = true;
  monitor_.fail(base::Error(base::ErrorCode::kPeerLost,
                            "host " + failure.host + " failed after " + seconds_text(failure.at) +
                                " of training, which the others noticed " +
                                seconds_text(base::to_seconds(detection_)) + " later"));
}

std::optional<base::TimePoint> Faults::recovery() {
  if (!happened_) return std::nullopt;
  happened_ = false;
  const Failure& failure = failures_[next_++];
  if (!failure.recovers_at) return std::nullopt;
  network_.silence(index_of_host(failure, cluster_), false);
  // Failures while nobody trains end nothing, but those hosts have to be back, too.
  double back = std::max(*failure.recovers_at, failure.at + base::to_seconds(detection_));
  for (; next_ < failures_.size() && failures_[next_].at <= back; ++next_) {
    const Failure& other = failures_[next_];
    if (!other.recovers_at) {
      monitor_.add("; before it was back, host " + other.host + " failed after " +
                   seconds_text(other.at) + " and stays away");
      return std::nullopt;
    }
    back = std::max(back, *other.recovers_at);
  }
  return at(back);
}

}  // namespace gearshift::sim
