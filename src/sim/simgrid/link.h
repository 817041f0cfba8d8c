#pragma once

#include <array>
#include <list>
#include <memory>
#include <optional>
#include <vector>

#include "gearshift/base/bytes.h"
#include "gearshift/transport/connection.h"
#include "gearshift/transport/matcher.h"
#include "sim/simgrid/port.h"
#include "sim/simgrid/scheduler.h"

namespace gearshift::sim {

class Network;

/// A posted send: done when its last byte has left.
class Sending final : public transport::RequestState {
 public:
  explicit Sending(SimScheduler& scheduler) : scheduler_(scheduler) {}
  base::Status wait(base::TimePoint deadline) override;
  bool done() const override { return done_; }
  void finish(std::optional<base::Error> error);

 private:
  SimScheduler& scheduler_;
  bool done_ = false;
  std::optional<base::Error> error_;
  std::vector<Actor*> waiters_;
};

/// Two ranks and the connection between them, both ways.
///
/// Messages of one direction leave in order, one after the other, as through one socket; each takes
/// the sender's processor (`per_message`), then the wire (what crosses the same links at the same
/// time shares them), then the latency, then the receiver's processor. Only the wire is occupied by
/// one message at a time: latencies and processors work on several.
///
/// How the wire is shared is the network's business: by SimGrid (a task carries message after
/// message), or by ports that messages pass.
class Link final : public Alarmed {
 public:
  Link(Network& network, int rank_a, int rank_b);

  transport::Request send(int side, transport::Tag tag, base::ConstBytes head,
                          base::ConstBytes body);
  transport::Request recv(int side, transport::Tag tag, base::Bytes into) {
    return at(side).matcher.post(tag, into);
  }
  void close(int side, base::TimePoint deadline);
  void abort(int side, const base::Error& reason);
  transport::Traffic traffic(int side) const;
  /// Sends what waits on that side, as long as it is ready. For the network's tasks.
  void carry(int side);
  /// Sends the first that waits on that side through the ports of its way.
  void launch(int side);
  void alarm(int what) override;
  base::Rank rank(int side) const { return sides_[static_cast<std::size_t>(side)]->rank; }

 private:
  struct Packet final : Passenger {
    const std::vector<Port*>& route() override { return link->at(side).route; }
    void on_through() override { link->land(side); }

    Link* link = nullptr;
    int side = 0;
    transport::Tag tag;
    std::vector<std::byte> head;
    base::Buffer body;
    bool phantom = false;
    base::TimePoint ready;  ///< when the sender's processor is done with it
    base::TimePoint begin;  ///< when it entered the ports
    std::shared_ptr<Sending> sending;
    std::uint64_t bytes() const { return head.size() + body.size(); }
  };
  using Packets = std::list<Packet>;
  struct Side {
    Side(Network& network, int own, int peer);
    const base::Rank rank;
    std::shared_ptr<transport::Router> router;
    transport::Matcher matcher;
    Packets queue;                ///< to the peer: not yet through the wire
    Packets in_flight;            ///< to the peer: through all of them, not yet there
    Packets lost;                 ///< what ports may still hold of a link that is broken
    std::vector<Port*> route;     ///< once something took it
    bool busy = false;            ///< a packet of this side is on the wire
    std::vector<Actor*> drained;  ///< who waits until the two are empty
    std::optional<base::Error> reason;
    std::uint64_t bytes_sent = 0, messages_sent = 0;
    std::uint64_t bytes_arrived = 0, messages_arrived = 0;
  };
  Side& at(int side) { return *sides_[static_cast<std::size_t>(side)]; }
  void next_packet(int side);
  void land(int side);
  void expect(int side);
  bool idle(int side) { return at(side).queue.empty() && at(side).in_flight.empty(); }
  void deliver(int side);
  void break_link(int side, const base::Error& reason);
  bool end(int side, const base::Error& reason);
  base::Error lost(int side) const;

  Network& network_;
  std::array<std::unique_ptr<Side>, 2> sides_;
};

}  // namespace gearshift::sim
