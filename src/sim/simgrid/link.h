#pragma once

#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "gearshift/base/bytes.h"
#include "gearshift/transport/connection.h"
#include "gearshift/transport/matcher.h"
#include "gearshift/transport/tcp/factory.h"
#include "sim/simgrid/message.h"
#include "sim/simgrid/port.h"
#include "sim/simgrid/scheduler.h"

namespace gearshift::sim {

class Network;

/// Two ranks and the connection between them, both ways.
///
/// Messages take the sender's processor (`per_message`), then the wire (what crosses the same links
/// at the same time shares them), then the latency, then the receiver's processor.
///
/// The wire is that of the tcp transport: a few streams, each of which carries one frame at a time.
/// A message of up to `stripe_bytes` is one frame of the first stream; a larger one is spread over
/// all of them in chunks, and whole messages pass the chunks that are not chosen yet: which frame
/// follows is decided when what is left of the one before fits into the socket's buffer
/// (`kUnsentBytes`). Within a host, as through shared memory, there is one stream, and messages
/// leave in order.
///
/// How the wire is shared is the network's business: by SimGrid (a task carries frame after frame),
/// or by ports that frames pass.
class Link final {
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
  /// Sends what waits in a stream of a side, as long as it is ready. For the network's tasks.
  void carry(int lane);
  /// Sends what waits in a stream of a side through the ports of its way, one after the other.
  void launch(int lane);
  base::Rank rank(int side) const { return sides_[static_cast<std::size_t>(side)].rank; }

 private:
  static constexpr int kStreams = transport::tcp::Options{}.streams;

  /// One frame at a time is on the wire.
  struct Stream final : Alarmed, Passenger {
    Stream(Link& its_link, int its_lane) : link(its_link), lane(its_lane) {}
    void alarm(int what) override;
    void prepare(int what) const override;
    const std::vector<Port*>& route() override { return link.at(side_of(lane)).ports; }
    void on_through() override { link.passed(*this); }

    Link& link;
    const int lane;
    bool busy = false;               ///< one is on the wire, or will be
    std::unique_ptr<Frame> current;  ///< on the wire,
    base::TimePoint begin;           ///< since then
    bool bulk = false;               ///< what is on its way through ports is a chunk
    Frames whole, chunks;            ///< not yet on the wire
    Frames in_flight;                ///< through the wire, not yet there
    base::Duration queued{0};        ///< what the current one waits at the receiver's port
    base::TimePoint last_arrival;    ///< nothing passes on the way
  };
  struct Side {
    Side(Network& network, int own, int peer);
    const base::Rank rank;
    std::shared_ptr<transport::Router> router;
    transport::Matcher matcher;
    std::array<std::unique_ptr<Stream>, kStreams> streams;  ///< to the peer; made at first use
    std::vector<Port*> ports;     ///< on the way to the peer, once something took them
    int under_way = 0;            ///< messages to the peer that are not yet there
    std::vector<Actor*> drained;  ///< who waits until there are none
    std::optional<base::Error> reason;
    std::uint64_t bytes_sent = 0, messages_sent = 0;
    std::uint64_t bytes_arrived = 0, messages_arrived = 0;
  };
  Side& at(int side) { return sides_[static_cast<std::size_t>(side)]; }
  Stream& stream(int lane);
  static int side_of(int lane) { return lane / kStreams; }
  int from(const Stream& stream) const { return rank(side_of(stream.lane)).value; }
  int to(const Stream& stream) const { return rank(1 - side_of(stream.lane)).value; }
  void post(int side, const std::shared_ptr<Message>& message, base::TimePoint ready);
  void start(Stream& here);
  std::unique_ptr<Frame> take(Stream& here, base::TimePoint at) const;
  std::unique_ptr<Frame> next(Stream& here, base::TimePoint choice) const;
  base::TimePoint buffered(const Stream& here) const;
  void note_queue(Stream& here);
  void launch(Stream& here, base::TimePoint choice);
  void pass(Stream& here);
  void passed(Stream& here);
  void leave(Stream& here, bool lost);
  void land(Stream& here);
  void deliver(int side, const Message& message);
  void over(int side);
  void break_link(int side, const base::Error& reason);
  bool end(int side, const base::Error& reason);
  base::Error lost(int side) const;

  Network& network_;
  std::array<Side, 2> sides_;
};

}  // namespace gearshift::sim
