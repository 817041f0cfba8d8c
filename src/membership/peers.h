#pragma once

#include <optional>
#include <string>
#include <vector>

#include "gearshift/base/scheduler.h"
#include "gearshift/membership/monitor.h"
#include "membership/wire.h"

namespace gearshift::membership {

enum class PeerState { kAlive, kLeft, kLost };

/// What one rank knows of all ranks. Thread-safety: none; the monitor's lock guards it.
class Peers {
 public:
  Peers(int size, base::Rank own, base::TimePoint now);

  /// Of two messages of a rank, the one with the higher number says how far it is.
  void heard(int rank, std::uint32_t sequence, ProgressNote progress, base::TimePoint now);
  /// Bytes came from this rank: it lives, even while a long message holds up its heartbeats.
  void saw_traffic(int rank, std::uint64_t bytes_received, base::TimePoint not_before);
  void left(int rank) { at(rank).state = PeerState::kLeft; }
  void lost(int rank) { at(rank).state = PeerState::kLost; }

  PeerState state(int rank) const { return at(rank).state; }
  bool awaited(int rank) const { return rank != own_.value && state(rank) == PeerState::kAlive; }
  /// The living peer that has been silent for longest.
  std::optional<int> most_silent() const;
  base::Duration silence(int rank, base::TimePoint now) const { return now - at(rank).heard_at; }

  /// What `rank` was last known to do: "while it was in push at step 3", or that it is not known.
  std::string last_known(int rank) const;
  std::vector<PeerReport> report(const ProgressNote& own, base::TimePoint now) const;
  std::string report_text(const ProgressNote& own, base::TimePoint now) const;

 private:
  struct Entry {
    PeerState state = PeerState::kAlive;
    base::TimePoint heard_at;
    std::optional<ProgressNote> progress;
    std::uint32_t sequence = 0;  ///< of the message that `progress` came with
    std::uint64_t bytes_received = 0;
  };
  Entry& at(int rank) { return entries_[static_cast<std::size_t>(rank)]; }
  const Entry& at(int rank) const { return entries_[static_cast<std::size_t>(rank)]; }
  std::string line(const PeerReport& report) const;

  const base::Rank own_;
  std::vector<Entry> entries_;
};

/// "0.4 s", "31.0 s".
std::string seconds_text(double seconds);

}  // namespace gearshift::membership
