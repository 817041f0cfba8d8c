#pragma once

#include <cstdint>
#include <queue>
#include <vector>

#include "gearshift/base/scheduler.h"
#include "sim/simgrid/scheduler.h"

namespace gearshift::sim {

class Port;

/// A message on its way through ports.
class Passenger {
 public:
  /// The ports on its way, which live as long as it is under way.
  virtual const std::vector<Port*>& route() = 0;
  /// All ports are done with it.
  virtual void on_through() = 0;

  void enter(std::uint64_t size);

 protected:
  ~Passenger() = default;

 private:
  friend class Port;
  void enter_piece();
  void leave_port();

  double left_ = 0;          ///< bytes that have not entered yet
  double size_ = 0;          ///< of the piece that has
  std::size_t pending_ = 0;  ///< ports that are not done with it
};

/// One direction of a link, which shares its bandwidth equally among the messages that cross it,
/// whatever other links do. A message enters all ports on its way at once (cut-through), piece by
/// piece, and a piece is through when the last of them is done with it: one that meets no other
/// takes as long as on the slowest of its ports. The smaller the pieces, the nearer is all this to
/// max-min fairness, and the more it costs.
///
/// Each event costs O(log n) for n messages, since all of them proceed alike: what they have had
/// is one number. (A max-min fair share has to be found anew, whenever a message begins or ends,
/// for all messages that are linked by chains of others.)
class Port final : public Alarmed {
 public:
  Port(SimScheduler& scheduler, double bandwidth) : scheduler_(scheduler), bandwidth_(bandwidth) {}

  void enter(Passenger& passenger);
  void alarm(int what) override;
  void prepare(int) const override {
    if (!served_.empty()) __builtin_prefetch(&served_.top());
  }

 private:
  struct Served {
    double end = 0;            ///< is through when `progress_` is this
    std::uint64_t number = 0;  ///< who ends at the same time does so in the order of arrival
    Passenger* passenger = nullptr;
    bool operator>(const Served& other) const {
      return end != other.end ? end > other.end : number > other.number;
    }
  };
  void advance();
  double seconds_left() const;
  void arm(double seconds);

  SimScheduler& scheduler_;
  const double bandwidth_;
  std::priority_queue<Served, std::vector<Served>, std::greater<>> served_;
  std::vector<Passenger*> done_;  ///< with this port, at an alarm
  double progress_ = 0;           ///< bytes that each message has had, since some moment
  base::TimePoint since_;         ///< when `progress_` was that
  std::uint64_t entered_ = 0;
  int alarms_ = 0;            ///< only the latest counts
  bool armed_ = false;        ///< it is still to come,
  base::TimePoint armed_at_;  ///< then
};

}  // namespace gearshift::sim
