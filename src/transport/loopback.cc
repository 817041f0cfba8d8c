#include "gearshift/transport/loopback.h"

#include <cstring>
#include <mutex>
#include <optional>

#include "gearshift/transport/matcher.h"
#include "gearshift/transport/requests.h"

namespace gearshift::transport {
namespace {

/// Shared by the connection and its matcher's callback, which may outlive each other.
class Loop : public std::enable_shared_from_this<Loop> {
 public:
  Loop(std::shared_ptr<Router> router, base::Rank self)
      : rank(self),
        router_(std::move(router)),
        matcher_(*router_, self),
        arriving_(router_->scheduler().make_monitor()) {}

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
};

class Loopback final : public Connection {
 public:
  explicit Loopback(std::shared_ptr<Loop> loop) : loop_(std::move(loop)) {}
  ~Loopback() override { loop_->end({base::ErrorCode::kClosed, "the connection was destroyed"}); }

  using Connection::send;
  Request send(Tag tag, base::ConstBytes head, base::ConstBytes body) override {
    return loop_->send(tag, head, body);
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
