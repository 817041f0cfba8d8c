#include "gearshift/transport/shm/factory.h"
#include "transport/shm/acceptor.h"
#include "transport/shm/engine.h"
#include "transport/shm/host.h"

namespace gearshift::transport::shm {
namespace {

using base::Error;
using base::ErrorCode;

/// Above tcp's 10: no system call while both sides are awake. Below inproc's 30.
constexpr int kPreference = 20;

/// The user's handle of a link; keeps the engine that serves it.
class ShmConnection final : public Connection {
 public:
  ShmConnection(std::shared_ptr<Engine> engine, std::shared_ptr<Link> link)
      : engine_(std::move(engine)), link_(std::move(link)) {}
  ~ShmConnection() override { link_->abort({ErrorCode::kClosed, "the connection was destroyed"}); }

  Request send(Tag tag, base::ConstBytes head, base::ConstBytes body) override {
    return link_->send(tag, head, body);
  }
  Request recv(Tag tag, base::Bytes into) override { return link_->recv(tag, into); }
  base::Rank peer() const override { return link_->peer(); }
  Capabilities capabilities() const override { return {"shm", true, true}; }
  Traffic traffic() const override { return link_->traffic(); }
  base::Status offer_region(std::uint64_t id, const SharedRegion& region) override {
    return link_->offer_region(id, region);
  }
  base::Result<std::unique_ptr<SharedRegion>> accept_region(std::uint64_t id,
                                                            base::TimePoint deadline) override {
    return link_->accept_region(id, deadline);
  }
  Request send_lent(Tag tag, base::ConstBytes head, base::ConstBytes body) override {
    return link_->send_lent(tag, head, body);
  }
  base::Result<std::unique_ptr<LentRegion>> lend(const SharedRegion& region) override {
    return link_->lend(region);
  }
  void abort(Error reason) override { link_->abort(reason); }
  void close(base::TimePoint deadline) override { link_->close(deadline); }

 private:
  const std::shared_ptr<Engine> engine_;
  const std::shared_ptr<Link> link_;
};

class ShmTransport final : public Transport {
 public:
  ShmTransport(base::Scheduler& scheduler, Identity identity, Options options, Address address,
               base::Fd listener)
      : scheduler_(scheduler),
        identity_(std::move(identity)),
        options_(options),
        address_(std::move(address)),
        acceptor_(std::make_shared<Acceptor>(scheduler, identity_, std::move(listener))) {}
  ~ShmTransport() override {
    // Connections may keep the engine, and the engine the acceptor: neither serves guests any more.
    if (engine_) engine_->forget_listener(acceptor_->listener());
    acceptor_->stop();
  }

  base::Status start(std::shared_ptr<Router> router) {
    GEARSHIFT_ASSIGN_OR_RETURN(engine_, Engine::create(std::move(router)));
    return engine_->watch_listener(acceptor_->listener(),
                                   [acceptor = acceptor_] { return acceptor->on_ready(); });
  }

  std::string name() const override { return "shm"; }
  std::string address() const override { return address_.to_string(); }
  int preference() const override { return kPreference; }
  bool reaches(const std::string& peer_address) const override {
    const auto peer = Address::parse(peer_address);
    return peer && peer->host == address_.host;
  }

  base::Result<std::unique_ptr<Connection>> connect(base::Rank peer,
                                                    const std::string& peer_address,
                                                    base::TimePoint deadline,
                                                    const std::stop_token& stop) override {
    GEARSHIFT_ASSIGN_OR_RETURN(const Address address, Address::parse(peer_address));
    if (address.host != address_.host) {
      return Error(ErrorCode::kUnsupported,
                   "rank " + std::to_string(peer.value) +
                       " is not on this host (or not in this network namespace, or another "
                       "user's); use the tcp transport",
                   peer.value);
    }
    GEARSHIFT_ASSIGN_OR_RETURN(LinkParts parts, knock(peer, address.socket_name, deadline, stop));
    return adopt(std::move(parts));
  }

  base::Result<std::unique_ptr<Connection>> accept(base::Rank peer,
                                                   base::TimePoint deadline) override {
    GEARSHIFT_ASSIGN_OR_RETURN(LinkParts parts, acceptor_->take(peer, deadline));
    return adopt(std::move(parts));
  }

 private:
  /// Anew when the peer ran out of patience, since this process stood still.
  base::Result<LinkParts> knock(base::Rank peer, const std::string& socket_name,
                                base::TimePoint deadline, const std::stop_token& stop) const {
    for (;;) {
      const base::TimePoint begun = scheduler_.now();
      auto parts = connect_link(scheduler_, identity_, peer, socket_name, options_.ring_bytes,
                                deadline, stop);
      const base::TimePoint ended = scheduler_.now();
      const bool held_up = !parts && parts.error().code == ErrorCode::kPeerLost &&
                           ended - begun >= Acceptor::kPatience;
      if (!held_up || ended >= deadline) return parts;
    }
  }

  base::Result<std::unique_ptr<Connection>> adopt(LinkParts parts) {
    parts.least_lent_bytes = options_.least_lent_bytes;
    GEARSHIFT_ASSIGN_OR_RETURN(auto link, engine_->add(std::move(parts)));
    return std::unique_ptr<Connection>(std::make_unique<ShmConnection>(engine_, std::move(link)));
  }

  base::Scheduler& scheduler_;
  const Identity identity_;
  const Options options_;
  const Address address_;
  const std::shared_ptr<Acceptor> acceptor_;
  std::shared_ptr<Engine> engine_;
};

}  // namespace

base::Result<std::unique_ptr<Transport>> create(base::Scheduler& scheduler,
                                                std::shared_ptr<Router> router, Identity identity,
                                                Options options) {
  GEARSHIFT_ASSIGN_OR_RETURN(std::string host, host_identity());
  GEARSHIFT_ASSIGN_OR_RETURN(Listener listener, listen_anywhere());
  if (auto probe = SharedRegion::create(1); !probe) {
    return Error(ErrorCode::kUnsupported,
                 "shared-memory transport: no memfd: " + probe.error().message);
  }
  auto transport = std::make_unique<ShmTransport>(
      scheduler, std::move(identity), options, Address{std::move(host), std::move(listener.name)},
      std::move(listener.socket));
  GEARSHIFT_RETURN_IF_ERROR(transport->start(std::move(router)));
  return std::unique_ptr<Transport>(std::move(transport));
}

}  // namespace gearshift::transport::shm
