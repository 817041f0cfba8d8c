#include <atomic>
#include <map>
#include <mutex>
#include <string>

#include "gearshift/base/log.h"
#include "gearshift/transport/inproc/factory.h"
#include "transport/inproc/link.h"

namespace gearshift::transport::inproc {

using base::Error;
using base::ErrorCode;
using base::Rank;
using base::Result;
using base::TimePoint;

namespace {

/// What the hub knows of one listening transport. Guarded by the hub's monitor.
struct Listener {
  Identity identity;
  std::shared_ptr<Router> router;
  std::map<Rank, std::unique_ptr<Connection>> arrived;  ///< connected, not yet accepted
  std::map<Rank, std::weak_ptr<Link>> links;            ///< to refuse a second one while alive

  bool connected_to(Rank rank) const {
    auto found = links.find(rank);
    if (found == links.end()) return false;
    auto link = found->second.lock();
    return link && !link->ended();
  }
};

std::uint64_t next_hub_id() {
  static std::atomic<std::uint64_t> last{0};
  return ++last;
}

}  // namespace

class Hub {
 public:
  explicit Hub(base::Scheduler& scheduler) : monitor(scheduler.make_monitor()) {}
  std::string prefix() const { return "inproc://" + std::to_string(id) + "/"; }

  const std::uint64_t id = next_hub_id();
  const std::unique_ptr<base::Monitor> monitor;
  std::uint64_t last_listener = 0;
  std::map<std::string, std::shared_ptr<Listener>> listeners;  ///< by address
};

std::shared_ptr<Hub> make_hub(base::Scheduler& scheduler) {
  return std::make_shared<Hub>(scheduler);
}

namespace {

class InprocTransport final : public Transport {
 public:
  InprocTransport(std::shared_ptr<Hub> hub, std::shared_ptr<Listener> self)
      : hub_(std::move(hub)), self_(std::move(self)) {
    std::lock_guard<base::Monitor> lock(*hub_->monitor);
    address_ = hub_->prefix() + std::to_string(++hub_->last_listener);
    hub_->listeners.emplace(address_, self_);
  }

  ~InprocTransport() override {
    // Dropped outside the lock: breaking unaccepted connections calls loss listeners.
    std::map<Rank, std::unique_ptr<Connection>> unaccepted;
    std::lock_guard<base::Monitor> lock(*hub_->monitor);
    hub_->listeners.erase(address_);
    unaccepted.swap(self_->arrived);
  }

  std::string name() const override { return "inproc"; }
  std::string address() const override { return address_; }
  bool reaches(const std::string& peer_address) const override {
    return peer_address.starts_with(hub_->prefix());
  }
  int preference() const override { return 30; }

  Result<std::unique_ptr<Connection>> connect(Rank peer, const std::string& peer_address, TimePoint,
                                              const std::stop_token&) override {
    std::lock_guard<base::Monitor> lock(*hub_->monitor);
    auto found = hub_->listeners.find(peer_address);
    if (found == hub_->listeners.end()) {
      return Error(ErrorCode::kIo, "nobody listens at " + peer_address);
    }
    Listener& there = *found->second;
    const Rank mine = self_->identity.rank;
    if (auto refusal = refuse(there, peer)) {
      GEARSHIFT_LOG_AT(
          kWarn, "transport",
          "inproc: refused rank " << mine.value << " at " << address_ << ": " << refusal->message);
      return refusal->within("cannot connect to rank " + std::to_string(peer.value) + " at " +
                             peer_address);
    }
    auto link = Link::make({mine, self_->router}, {peer, there.router});
    self_->links[peer] = link;
    there.links[mine] = link;
    there.arrived[mine] = std::make_unique<InprocConnection>(link, 1);
    hub_->monitor->notify_all();
    return std::unique_ptr<Connection>(std::make_unique<InprocConnection>(link, 0));
  }

  Result<std::unique_ptr<Connection>> accept(Rank peer, TimePoint deadline) override {
    std::lock_guard<base::Monitor> lock(*hub_->monitor);
    for (;;) {
      if (auto node = self_->arrived.extract(peer)) return std::move(node.mapped());
      if (!hub_->monitor->wait_until(deadline) && !self_->arrived.contains(peer)) {
        return Error(ErrorCode::kTimeout,
                     "rank " + std::to_string(peer.value) + " did not connect in time", peer.value);
      }
    }
  }

 private:
  /// Why `there` does not take this transport as a peer, if so.
  std::optional<Error> refuse(const Listener& there, Rank wanted) const {
    const Identity& mine = self_->identity;
    const Identity& theirs = there.identity;
    if (theirs.token != mine.token) {
      return Error(ErrorCode::kUnauthenticated, "the peer does not know this job's token");
    }
    if (theirs.generation != mine.generation) {
      return Error(ErrorCode::kMismatch,
                   "generation differs: the peer has " + std::to_string(theirs.generation.value) +
                       ", this process " + std::to_string(mine.generation.value));
    }
    if (theirs.rank != wanted) {
      return Error(ErrorCode::kMismatch,
                   "rank " + std::to_string(theirs.rank.value) + " answers there", wanted.value);
    }
    if (there.connected_to(mine.rank) || self_->connected_to(wanted)) {
      return Error(ErrorCode::kMismatch,
                   "rank " + std::to_string(mine.rank.value) + " is connected already");
    }
    return std::nullopt;
  }

  const std::shared_ptr<Hub> hub_;
  const std::shared_ptr<Listener> self_;
  std::string address_;
};

}  // namespace

Result<std::unique_ptr<Transport>> create(std::shared_ptr<Hub> hub, std::shared_ptr<Router> router,
                                          Identity identity) {
  auto listener = std::make_shared<Listener>();
  listener->identity = std::move(identity);
  listener->router = std::move(router);
  return std::unique_ptr<Transport>(
      std::make_unique<InprocTransport>(std::move(hub), std::move(listener)));
}

}  // namespace gearshift::transport::inproc
