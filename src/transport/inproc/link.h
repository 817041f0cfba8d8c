#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <optional>

#include "gearshift/transport/matcher.h"

namespace gearshift::transport::inproc {

/// Two ranks of one process and what lies between them: the shared state of two connections.
///
/// Thread-safety: all methods. `side` is 0 or 1 and names the caller's end.
class Link : public std::enable_shared_from_this<Link> {
 public:
  struct End {
    base::Rank rank;
    std::shared_ptr<Router> router;
  };
  static std::shared_ptr<Link> make(End a, End b);

  /// Copies straight into the peer's posted buffer, or into memory that the peer keeps.
  Request send(int side, Tag tag, base::ConstBytes head, base::ConstBytes body);
  Request recv(int side, Tag tag, base::Bytes into) { return at(side).matcher.post(tag, into); }
  void close(int side);
  void abort(int side, const base::Error& reason);
  bool ended() const { return ended_.load(std::memory_order_acquire); }
  base::Rank peer(int side) const { return sides_[static_cast<std::size_t>(1 - side)]->end.rank; }
  Traffic traffic(int side) const;

 private:
  struct Side {
    Side(End e, base::Rank peer)
        : end(std::move(e)),
          matcher(*end.router, peer),
          arriving(end.router->scheduler().make_monitor()) {}
    const End end;
    Matcher matcher;
    /// Held while a message is copied in: keeps messages in order, and whoever holds it knows
    /// that nobody writes into this side's buffers.
    const std::unique_ptr<base::Monitor> arriving;
    std::optional<base::Error> reason;  ///< why this side ended; under `arriving`
    std::atomic<std::uint64_t> bytes_in{0};
    std::atomic<std::uint64_t> messages_in{0};
  };

  Link(End a, End b);
  Side& at(int side) { return *sides_[static_cast<std::size_t>(side)]; }
  base::Error lost(int side) const;
  /// Breaks the link because of what this side was sent; news for this side's listener, too.
  void break_link(int side, const base::Error& reason);
  /// Ends one side; false when it had ended before.
  bool end(int side, const base::Error& reason);

  std::array<std::unique_ptr<Side>, 2> sides_;
  std::atomic<bool> ended_{false};
};

/// One end of a Link. Breaks the link when destroyed without `close`.
class InprocConnection final : public Connection {
 public:
  InprocConnection(std::shared_ptr<Link> link, int side) : link_(std::move(link)), side_(side) {}
  ~InprocConnection() override;

  using Connection::send;
  Request send(Tag tag, base::ConstBytes head, base::ConstBytes body) override {
    return link_->send(side_, tag, head, body);
  }
  Request recv(Tag tag, base::Bytes into) override { return link_->recv(side_, tag, into); }
  base::Rank peer() const override { return link_->peer(side_); }
  Capabilities capabilities() const override {
    return {.transport = "inproc", .same_host = true, .shared_regions = false};
  }
  Traffic traffic() const override { return link_->traffic(side_); }
  void abort(base::Error reason) override { link_->abort(side_, reason); }
  void close(base::TimePoint) override { link_->close(side_); }

 private:
  const std::shared_ptr<Link> link_;
  const int side_;
};

}  // namespace gearshift::transport::inproc
