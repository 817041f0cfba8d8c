#include "membership/peers.h"

#include <algorithm>
#include <cstdio>

namespace gearshift::membership {

Peers::Peers(int size, base::Rank own, base::TimePoint now)
    : own_(own), entries_(static_cast<std::size_t>(size)) {
  for (Entry& entry : entries_) entry.heard_at = now;
}

void Peers::heard(int rank, std::uint32_t sequence, ProgressNote progress, base::TimePoint now) {
  Entry& entry = at(rank);
  entry.heard_at = std::max(entry.heard_at, now);
  // Numbers wrap around, in a job of a thousand ranks after some weeks.
  if (static_cast<std::int32_t>(sequence - entry.sequence) < 0) return;
  entry.sequence = sequence;
  entry.progress = std::move(progress);
}

void Peers::saw_traffic(int rank, std::uint64_t bytes_received, base::TimePoint not_before) {
  Entry& entry = at(rank);
  if (entry.bytes_received == bytes_received) return;
  entry.bytes_received = bytes_received;
  entry.heard_at = std::max(entry.heard_at, not_before);
}

std::optional<int> Peers::most_silent() const {
  std::optional<int> found;
  for (int r = 0; r < static_cast<int>(entries_.size()); ++r) {
    if (awaited(r) && (!found || at(r).heard_at < at(*found).heard_at)) found = r;
  }
  return found;
}

std::string Peers::last_known(int rank) const {
  const Entry& entry = at(rank);
  if (!entry.progress) return "before it reported any progress";
  return "while it was " + entry.progress->phrase();
}

std::vector<PeerReport> Peers::report(const ProgressNote& own, base::TimePoint now) const {
  std::vector<PeerReport> reports;
  for (int r = 0; r < static_cast<int>(entries_.size()); ++r) {
    const Entry& entry = at(r);
    const bool self = r == own_.value;
    const ProgressNote note = self ? own : entry.progress.value_or(ProgressNote{0, "unknown", 0});
    PeerReport one;
    one.rank = base::Rank(r);
    one.alive = entry.state == PeerState::kAlive;
    one.seconds_since_heard = self ? 0 : base::to_seconds(now - entry.heard_at);
    one.step = note.step;
    one.left = entry.state == PeerState::kLeft;
    one.operation = one.left ? "finished" : note.operation;
    one.seconds_in_operation = note.seconds_in_operation;
    reports.push_back(std::move(one));
  }
  return reports;
}

std::string Peers::line(const PeerReport& one) const {
  const bool self = one.rank == own_;
  std::string text = "  rank " + std::to_string(one.rank.value) + (self ? " (this rank)" : "");
  if (state(one.rank.value) == PeerState::kLost) text += " LOST";
  text += ": step " + std::to_string(one.step) + ", " + one.operation;
  if (one.seconds_in_operation > 0) text += " for " + seconds_text(one.seconds_in_operation);
  if (!self) text += ", last heard " + seconds_text(one.seconds_since_heard) + " ago";
  return text;
}

std::string Peers::report_text(const ProgressNote& own, base::TimePoint now) const {
  std::string text = "last known progress of each rank:";
  for (const PeerReport& one : report(own, now)) text += "\n" + line(one);
  return text;
}

std::string seconds_text(double seconds) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f s", seconds);
  return text;
}

}  // namespace gearshift::membership
