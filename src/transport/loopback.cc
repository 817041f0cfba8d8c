#include "gearshift/transport/loopback.h"

#include <atomic>
#include <cstring>
#include <mutex>
#include <optional>
#include <utility>

#include "gearshift/transport/matcher.h"
#include "gearshift/transport/requests.h"

namespace gearshift::transport {
namespace {

/// Who waits for lent bodies of one loopback.
struct LentMonitor {
  explicit LentMonitor(base::Scheduler& scheduler) : monitor(scheduler.make_monitor()) {}
  const std::unique_ptr<base::Monitor> monitor;
  int waiters = 0;
};

/// A body that the reader of a mailbox has not let go of yet.
class Lent final : public RequestState {
 public:
  explicit Lent(std::shared_ptr<LentMonitor> owner) : owner_(std::move(owner)) {}

  bool done() const override { return done_.load(std::memory_order_acquire); }
  base::Status wait(base::TimePoint deadline) override {
    if (done()) return {};
    std::lock_guard<base::Monitor> lock(*owner_->monitor);
    ++owner_->waiters;
    while (!done() && owner_->monitor->wait_until(deadline)) {
    }
    --owner_->waiters;
    if (done()) return {};
    return base::Error(base::ErrorCode::kTimeout, "this process did not read its own message");
  }
  void end() {
    std::lock_guard<base::Monitor> lock(*owner_->monitor);
    done_.store(true, std::memory_order_release);
    if (owner_->waiters > 0) owner_->monitor->notify_all();
  }

 private:
  const std::shared_ptr<LentMonitor> owner_;
  std::atomic<bool> done_{false};
};

/// Kept by the message.
struct Loan {
  explicit Loan(std::shared_ptr<Lent> l) : lent(std::move(l)) {}
  ~Loan() { lent->end(); }
  Loan(const Loan&) = delete;
  Loan& operator=(const Loan&) = delete;
  const std::shared_ptr<Lent> lent;
};

/// Shared by the connection and its matcher's callback, which may outlive each other.
class Loop : public std::enable_shared_from_this<Loop> {
 public:
  Loop(std::shared_ptr<Router> router, base::Rank self)
      : rank(self),
        router_(std::move(router)),
        matcher_(*router_, self),
        arriving_(router_->scheduler().make_monitor()),
        lent_(std::make_shared<LentMonitor>(router_->scheduler())) {}

  /// Not in the constructor: a weak pointer to this exists only afterwards.
  void listen() {
    matcher_.on_stuck([weak = weak_from_this()](base::Error reason) {
      if (auto loop = weak.lock()) loop->end(reason);
    });
  }

  Request send(Tag tag, base::ConstBytes head, base::ConstBytes body) {
    if (auto fits = check_outgoing(tag, head, body); !fits) return failed_request(fits.error());
    // The copy below: under a virtual clock, a message is there when the copying is over.
    if (!body.empty()) router_->scheduler().work(base::Work::kCopy, body.size());
    std::optional<base::Error> refused;
    {
      std::lock_guard<base::Monitor> lock(*arriving_);
      auto landing = matcher_.arrive(tag, head, body.size(), base::is_phantom(body));
      if (landing) {
        const base::Bytes into = (*landing)->into;
        if (into.data() != nullptr && body.data() != nullptr && !body.empty()) {
          std::memcpy(into.data(), body.data(), body.size());
        }
        matcher_.complete(*landing);
        return {};
      }
      refused = landing.error();
    }
    end(*refused);
    return failed_request(*refused);
  }

  Request send_lent(Tag tag, base::ConstBytes head, base::ConstBytes body) {
    if (!is_service(tag) || body.empty()) return send(tag, head, body);
    if (auto fits = check_outgoing(tag, head, body); !fits) return failed_request(fits.error());
    auto lent = std::make_shared<Lent>(lent_);
    // Only to be read, as `Connection::send_lent` says.
    const base::Bytes memory(const_cast<std::byte*>(body.data()), body.size());
    base::Status delivered;
    {
      std::lock_guard<base::Monitor> lock(*arriving_);
      delivered =
          matcher_.deliver(tag, head, base::Buffer::borrow(memory, std::make_shared<Loan>(lent)));
    }
    if (!delivered) return failed_request(delivered.error());
    return Request(std::move(lent));
  }

  Request recv(Tag tag, base::Bytes into) { return matcher_.post(tag, into); }

  /// When this returns nobody writes into a posted buffer.
  void end(const base::Error& reason) {
    std::lock_guard<base::Monitor> lock(*arriving_);
    matcher_.fail(reason);
  }

  const base::Rank rank;

 private:
  const std::shared_ptr<Router> router_;
  Matcher matcher_;
  /// Held while a message is copied in: keeps messages in order.
  const std::unique_ptr<base::Monitor> arriving_;
  const std::shared_ptr<LentMonitor> lent_;
};

class Loopback final : public Connection {
 public:
  explicit Loopback(std::shared_ptr<Loop> loop) : loop_(std::move(loop)) {}
  ~Loopback() override { loop_->end({base::ErrorCode::kClosed, "the connection was destroyed"}); }

  using Connection::send;
  Request send(Tag tag, base::ConstBytes head, base::ConstBytes body) override {
    return loop_->send(tag, head, body);
  }
  Request send_lent(Tag tag, base::ConstBytes head, base::ConstBytes body) override {
    return loop_->send_lent(tag, head, body);
  }
  Request recv(Tag tag, base::Bytes into) override { return loop_->recv(tag, into); }
  base::Rank peer() const override { return loop_->rank; }
  Capabilities capabilities() const override {
    return {.transport = "loopback", .same_host = true, .shared_regions = false};
  }
  Traffic traffic() const override { return {}; }
  void abort(base::Error reason) override { loop_->end(reason); }
  void close(base::TimePoint) override {
    loop_->end({base::ErrorCode::kClosed, "this process closed the connection"});
  }

 private:
  const std::shared_ptr<Loop> loop_;
};

}  // namespace

std::unique_ptr<Connection> make_loopback(std::shared_ptr<Router> router, base::Rank self) {
  auto loop = std::make_shared<Loop>(std::move(router), self);
  loop->listen();
  return std::make_unique<Loopback>(std::move(loop));
}

}  // namespace gearshift::transport
