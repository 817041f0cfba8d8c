#include <map>
#include <mutex>
#include <set>

#include "gearshift/base/log.h"
#include "gearshift/transport/tcp/factory.h"
#include "transport/tcp/acceptor.h"
#include "transport/tcp/congestion.h"
#include "transport/tcp/link.h"

namespace gearshift::transport::tcp {

using base::Error;
using base::ErrorCode;
using base::Fd;
using base::Rank;
using base::Result;
using base::TimePoint;

namespace {

/// Whether a socket's two ends have the same address, so that its peer is on this host.
bool is_local(const Fd& fd) {
  const auto here = parse_address(local_address(fd));
  const auto there = parse_address(remote_address(fd));
  return here && there && here->host == there->host;
}

class TcpTransport final : public Transport, public LinkKeeper {
 public:
  TcpTransport(base::Scheduler& scheduler, std::shared_ptr<Router> router, Identity identity,
               Options options, std::shared_ptr<RunningReactor> reactor, std::string address)
      : scheduler_(scheduler),
        router_(std::move(router)),
        identity_(std::move(identity)),
        options_(std::move(options)),
        reactor_(std::move(reactor)),
        address_(std::move(address)),
        monitor_(scheduler.make_monitor()) {}

  ~TcpTransport() override {
    if (acceptor_) acceptor_->stop();
  }

  base::Status listen(Fd listener) {
    zone_ = zone_of(listener);
    acceptor_ = std::make_shared<Acceptor>(scheduler_, identity_, std::move(listener),
                                           reactor_->reactor(), *this);
    return acceptor_->start();
  }

  std::string name() const override { return "tcp"; }
  std::string address() const override { return address_; }
  bool reaches(const std::string& peer_address) const override {
    return parse_address(peer_address).ok();
  }
  int preference() const override { return 10; }

  Result<std::unique_ptr<Connection>> connect(Rank peer, const std::string& peer_address,
                                              TimePoint deadline,
                                              const std::stop_token& stop) override {
    if (!reserve(peer)) {
      return Error(ErrorCode::kMismatch,
                   "rank " + std::to_string(peer.value) + " is connected already", peer.value);
    }
    auto sockets = knock(peer, peer_address, deadline, stop);
    if (!sockets) {
      cancel(peer);
      return sockets.error();
    }
    return make_connection(peer, *std::move(sockets));
  }

  Result<std::unique_ptr<Connection>> accept(Rank peer, TimePoint deadline) override {
    std::lock_guard<base::Monitor> lock(*monitor_);
    for (;;) {
      if (auto node = arrived_.extract(peer)) return std::move(node.mapped());
      if (!monitor_->wait_until(deadline) && !arrived_.contains(peer)) {
        return Error(ErrorCode::kTimeout,
                     "rank " + std::to_string(peer.value) + " did not connect in time", peer.value);
      }
    }
  }

 private:
  /// Anew when the peer ran out of patience, since this process or the network stood still.
  Result<std::vector<Fd>> knock(Rank peer, const std::string& address, TimePoint deadline,
                                const std::stop_token& stop) const {
    for (;;) {
      const TimePoint begun = scheduler_.now();
      auto sockets =
          open_link(scheduler_, identity_, peer, address, options_.streams, deadline, zone_, stop);
      const TimePoint ended = scheduler_.now();
      const bool held_up = !sockets && sockets.error().code == ErrorCode::kPeerLost &&
                           ended - begun >= Acceptor::kPatience;
      if (!held_up || ended >= deadline) return sockets;
    }
  }

  bool reserve(Rank peer) override {
    std::lock_guard<base::Monitor> lock(*monitor_);
    if (auto found = links_.find(peer); found != links_.end()) {
      auto link = found->second.lock();
      if (link && !link->ended()) return false;
    }
    return reserved_.insert(peer).second;
  }

  void cancel(Rank peer) override {
    std::lock_guard<base::Monitor> lock(*monitor_);
    reserved_.erase(peer);
  }

  void add(Rank peer, std::vector<Fd> sockets) override {
    auto connection = make_connection(peer, std::move(sockets));
    std::lock_guard<base::Monitor> lock(*monitor_);
    arrived_[peer].swap(connection);
    monitor_->notify_all();
  }

  std::unique_ptr<Connection> make_connection(Rank peer, std::vector<Fd> sockets) {
    const bool same_host = is_local(sockets.front());
    for (const Fd& socket : sockets) {
      choose_congestion_control(socket, options_.congestion_control, round_trip(socket));
    }
    auto link = Link::make({.self = identity_.rank,
                            .peer = peer,
                            .router = router_,
                            .stripe_bytes = options_.stripe_bytes,
                            .meter = meter_},
                           reactor_->reactor(), std::move(sockets));
    {
      std::lock_guard<base::Monitor> lock(*monitor_);
      links_[peer] = link;
      reserved_.erase(peer);
    }
    link->start();
    GEARSHIFT_LOG_AT(kDebug, "transport", "tcp: connected to rank " << peer.value);
    return std::make_unique<TcpConnection>(std::move(link), reactor_, same_host);
  }

  base::Scheduler& scheduler_;
  const std::shared_ptr<Router> router_;
  const Identity identity_;
  const Options options_;
  const std::shared_ptr<RunningReactor> reactor_;
  const std::shared_ptr<ReadMeter> meter_ = std::make_shared<ReadMeter>();
  const std::string address_;
  std::uint32_t zone_ = 0;  ///< see Caller
  std::shared_ptr<Acceptor> acceptor_;

  const std::unique_ptr<base::Monitor> monitor_;
  std::set<Rank> reserved_;                              ///< links being made
  std::map<Rank, std::weak_ptr<Link>> links_;            ///< to refuse a second one while alive
  std::map<Rank, std::unique_ptr<Connection>> arrived_;  ///< connected, not yet accepted
};

}  // namespace

base::Status validate(const Options& options) {
  if (options.streams < 1 || options.streams > static_cast<int>(LinkSetup::kMaxStreams)) {
    return Error(ErrorCode::kInvalidArgument,
                 "tcp needs 1 to " + std::to_string(LinkSetup::kMaxStreams) + " streams, not " +
                     std::to_string(options.streams));
  }
  return check_congestion_control(options.congestion_control);
}

Result<std::unique_ptr<Transport>> create(base::Scheduler& scheduler,
                                          std::shared_ptr<Router> router, Identity identity,
                                          Options options) {
  GEARSHIFT_RETURN_IF_ERROR(validate(options));
  GEARSHIFT_ASSIGN_OR_RETURN(Fd listener, listen_on(options.host, options.port));
  GEARSHIFT_ASSIGN_OR_RETURN(auto reactor, Reactor::make());
  std::string address = published_address(listener);
  auto transport = std::make_unique<TcpTransport>(
      scheduler, std::move(router), std::move(identity), std::move(options),
      std::make_shared<RunningReactor>(scheduler, std::move(reactor)), std::move(address));
  GEARSHIFT_RETURN_IF_ERROR(transport->listen(std::move(listener)));
  return std::unique_ptr<Transport>(std::move(transport));
}

}  // namespace gearshift::transport::tcp
