#pragma once

#include <array>
#include <list>
#include <memory>
#include <optional>
#include <vector>

#include "gearshift/base/bytes.h"
#include "gearshift/transport/connection.h"
#include "gearshift/transport/matcher.h"
#include "gearshift/transport/tcp/factory.h"
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
  /// Sends what waits in a stream of a side, as long as it is ready. For the network's tasks.
  void carry(int lane);
  /// Sends what waits in a stream of a side through the ports of its way, one after the other.
  void launch(int lane);
  void alarm(int what) override;
  base::Rank rank(int side) const { return sides_[static_cast<std::size_t>(side)]->rank; }

 private:
  static constexpr int kStreams = transport::tcp::Options{}.streams;

  struct Message {
    transport::Tag tag;
    std::vector<std::byte> head;
    base::Buffer body;
    bool phantom = false;
    std::shared_ptr<Sending> sending;
    int to_leave = 1, to_arrive = 1;  ///< frames
    std::uint64_t bytes() const { return head.size() + body.size(); }
  };
  struct Frame {
    std::shared_ptr<Message> message;
    std::uint64_t bytes = 0;
    bool whole = false;
    base::TimePoint ready;  ///< when the sender's processor is done with it
  };
  /// What a stream has on its way through ports: a frame, or the part of it before its rest.
  struct Passage final : Passenger {
    const std::vector<Port*>& route() override { return ports; }
    void on_through() override { link->passed(lane); }

    Link* link = nullptr;
    int lane = 0;
    std::uint64_t rest = 0;  ///< of the frame, which follows
    bool bulk = false;       ///< a chunk of a large message
    base::TimePoint begin;
    std::vector<Port*> ports;  ///< once something took them
  };
  struct Stream {
    std::list<Frame> whole, chunks;  ///< not yet on the wire
    std::optional<Frame> current;    ///< on the wire
    std::optional<Frame> chosen;     ///< follows it
    std::list<Frame> in_flight;      ///< through the wire, not yet there
    base::Duration queued{0};        ///< what the current one waits at the receiver's port
    base::TimePoint last_arrival;    ///< nothing passes on the way
    bool busy = false;               ///< one is on the wire, or will be
    Passage passage;
  };
  struct Side {
    Side(Network& network, int own, int peer);
    const base::Rank rank;
    std::shared_ptr<transport::Router> router;
    transport::Matcher matcher;
    std::array<Stream, kStreams> streams;  ///< to the peer
    int under_way = 0;                     ///< messages to the peer that are not yet there
    std::vector<Actor*> drained;           ///< who waits until there are none
    std::optional<base::Error> reason;
    std::uint64_t bytes_sent = 0, messages_sent = 0;
    std::uint64_t bytes_arrived = 0, messages_arrived = 0;
  };
  Side& at(int side) { return *sides_[static_cast<std::size_t>(side)]; }
  Stream& stream(int lane) {
    return at(side_of(lane)).streams[static_cast<std::size_t>(lane % kStreams)];
  }
  static int side_of(int lane) { return lane / kStreams; }
  void post(int side, const std::shared_ptr<Message>& message, base::TimePoint ready);
  void start(int lane);
  std::optional<Frame> take(Stream& stream) const;
  std::optional<Frame> next(Stream& stream) const;
  void note_queue(int lane);
  void transmit(int lane);
  void pass(int lane, std::uint64_t bytes);
  void passed(int lane);
  void leave(int lane, bool lost);
  void land(int lane);
  void deliver(int side, const Message& message);
  void over(int side);
  void break_link(int side, const base::Error& reason);
  bool end(int side, const base::Error& reason);
  base::Error lost(int side) const;

  Network& network_;
  std::array<std::unique_ptr<Side>, 2> sides_;
};

}  // namespace gearshift::sim
