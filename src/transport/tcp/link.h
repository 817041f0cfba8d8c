#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "transport/tcp/arrivals.h"
#include "transport/tcp/inflow.h"
#include "transport/tcp/loan.h"
#include "transport/tcp/outflow.h"
#include "transport/tcp/reactor.h"
#include "transport/tcp/read_pace.h"

namespace gearshift::transport::tcp {

struct LinkOptions {
  base::Rank self;
  base::Rank peer;
  std::shared_ptr<Router> router;
  std::size_t stripe_bytes;
  std::shared_ptr<ReadMeter> meter;  ///< of all links of the reactor
};

/// All sockets to one peer. What a Connection does, does this; it lives on while the reactor or a
/// request still needs it.
///
///   kOpen    --close()-->              kClosing: our good-byes go out, what comes is still taken
///   kOpen    --peer's good-byes-->     kEnded (kClosed)
///   kClosing --both sides done-->      kEnded (kClosed)
///   any      --abort, error, end of stream without good-bye--> kEnded
///
/// Locks: `receiving_` is held while bytes are written into receivers' memory, so whoever holds it
/// and finds the link ended knows that no more will be. Each Outflow has its own. Listeners of the
/// router are called without any.
class Link final : public std::enable_shared_from_this<Link>, public Puller {
 public:
  static std::shared_ptr<Link> make(LinkOptions options, std::shared_ptr<Reactor> reactor,
                                    std::vector<base::Fd> sockets);
  ~Link() override;

  /// Begins to receive.
  void start();
  Request send(Tag tag, base::ConstBytes head, base::ConstBytes body);
  Request recv(Tag tag, base::Bytes into);
  void limit_flow(const FlowLimit& limit);
  void close(base::TimePoint deadline);
  bool pull(std::size_t bytes, const std::function<bool()>& done, base::TimePoint until) override;
  void stop_pulling() override;
  void abort(const base::Error& reason) { finish(reason, News::kKeep); }
  bool ended() const { return ended_.load(std::memory_order_acquire); }
  base::Rank peer() const { return options_.peer; }
  Traffic traffic() const { return traffic_->read(); }

 private:
  enum class News { kKeep, kReport };
  struct Stream final : Reactor::Handler {
    Stream(Link& owner, std::size_t index, base::Fd socket);
    void on_events(std::uint32_t events) override { link.on_events(*this, events); }
    void on_alarm() override { link.on_alarm(*this); }
    /// Has the reactor wait for that.
    void await_room(bool wanted);
    void await_data(bool wanted);

    Link& link;
    const base::Fd fd;
    const Reactor::Id id;
    Inflow in;
    Outflow out;
    ReadPace pace;

   private:
    void modify() const;
    std::mutex mutex_;  ///< of what is awaited
    bool data_ = true, room_ = false;
  };

  Link(LinkOptions options, std::shared_ptr<Reactor> reactor);
  void on_events(Stream& stream, std::uint32_t events);
  void on_alarm(Stream& stream);
  base::Status receive(Stream& stream, bool hung_up);
  base::Status read(Stream& stream);
  void settle(const base::Status& received);
  bool is_lent(const Stream& stream) const { return &stream == streams_[0].get() && loan_.lent(); }
  bool borrow();
  bool read_borrowed(Stream& stream);
  void leave();
  void take_back();
  void schedule_read(Stream& stream);
  void send_chunks(const Frame& whole, base::ConstBytes head, base::ConstBytes body,
                   const std::shared_ptr<SendState>& state, std::uint64_t count);
  void post(Stream& stream, Outgoing out);
  void withdraw(SendState& state, const base::Error& error);
  /// Ends the link when both sides have said what they had to say.
  void finish_if_over();
  void finish(const base::Error& reason, News news);
  base::Error reason();
  std::string peer_name() const { return "rank " + std::to_string(options_.peer.value); }

  const LinkOptions options_;
  const std::shared_ptr<Reactor> reactor_;
  const std::shared_ptr<TrafficCounters> traffic_ = std::make_shared<TrafficCounters>();
  Matcher matcher_;
  Arrivals arrivals_;
  std::shared_ptr<SendShared> sends_;
  std::vector<std::unique_ptr<Stream>> streams_;
  std::atomic<std::uint64_t> next_message_{0};

  std::mutex receiving_;
  Loan loan_;  ///< of the first stream; changes under `receiving_`
  std::mutex limiting_;
  int limits_ = 0;                    ///< that are not ended; under `limiting_`
  std::atomic<bool> limited_{false};  ///< what the peer has under way
  std::atomic<bool> closing_{false};
  std::atomic<bool> ended_{false};     ///< changes under `receiving_`
  std::optional<base::Error> reason_;  ///< why it ended, or will: under `receiving_`
  const std::unique_ptr<base::Monitor> closing_monitor_;
  bool torn_down_ = false;  ///< under `closing_monitor_`
};

/// One side's handle of a link. Breaks it when destroyed without `close`.
class TcpConnection final : public Connection {
 public:
  TcpConnection(std::shared_ptr<Link> link, std::shared_ptr<RunningReactor> reactor, bool same_host)
      : reactor_(std::move(reactor)), link_(std::move(link)), same_host_(same_host) {}
  ~TcpConnection() override;

  using Connection::send;
  Request send(Tag tag, base::ConstBytes head, base::ConstBytes body) override {
    return link_->send(tag, head, body);
  }
  Request recv(Tag tag, base::Bytes into) override { return link_->recv(tag, into); }
  void limit_flow(const FlowLimit& limit) override { link_->limit_flow(limit); }
  base::Rank peer() const override { return link_->peer(); }
  Capabilities capabilities() const override {
    return {.transport = "tcp", .same_host = same_host_, .shared_regions = false};
  }
  Traffic traffic() const override { return link_->traffic(); }
  void abort(base::Error reason) override { link_->abort(reason); }
  void close(base::TimePoint deadline) override { link_->close(deadline); }

 private:
  const std::shared_ptr<RunningReactor> reactor_;
  const std::shared_ptr<Link> link_;
  const bool same_host_;
};

}  // namespace gearshift::transport::tcp
