#include "gearshift/transport/loopback.h"

#include <cstring>
#include <mutex>
#include <optional>

#include "gearshift/transport/matcher.h"
#include "transport/requests.h"

namespace gearshift::transport {
namespace {

class Loopback final : public Connection {
 public:
  Loopback(std::shared_ptr<Router> router, base::Rank self)
      : router_(std::move(router)),
        self_(self),
        matcher_(*router_, self),
        copying_(router_->scheduler().make_monitor()) {}
  ~Loopback() override { end({base::ErrorCode::kClosed, "the connection was destroyed"}); }

  using Connection::send;
  Request send(Tag tag, base::ConstBytes head, base::ConstBytes body) override {
    if (auto fits = check_outgoing(tag, head, body); !fits) return failed_request(fits.error());
    std::optional<base::Error> refused;
    {
      std::lock_guard<base::Monitor> lock(*copying_);
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
    return failed_request(*std::move(refused));
  }

  Request recv(Tag tag, base::Bytes into) override { return matcher_.post(tag, into); }
  base::Rank peer() const override { return self_; }
  Capabilities capabilities() const override {
    return {.transport = "loopback", .same_host = true, .shared_regions = false};
  }
  Traffic traffic() const override { return {}; }
  void abort(base::Error reason) override { end(reason); }
  void close(base::TimePoint) override {
    end({base::ErrorCode::kClosed, "this process closed the connection"});
  }

 private:
  void end(const base::Error& reason) {
    std::lock_guard<base::Monitor> lock(*copying_);
    matcher_.fail(reason);
  }

  const std::shared_ptr<Router> router_;
  const base::Rank self_;
  Matcher matcher_;
  /// Held while a message is copied in: order, and no writes once `end` has returned.
  const std::unique_ptr<base::Monitor> copying_;
};

}  // namespace

std::unique_ptr<Connection> make_loopback(std::shared_ptr<Router> router, base::Rank self) {
  return std::make_unique<Loopback>(std::move(router), self);
}

}  // namespace gearshift::transport
