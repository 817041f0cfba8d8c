#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "transport/tcp/frame.h"
#include "transport/tcp/reactor.h"
#include "transport/tcp/send_state.h"
#include "transport/tcp/traffic.h"

namespace gearshift::transport::tcp {

/// One frame on its way out, and how much of it has left.
struct Outgoing {
  Frame frame;
  base::ConstBytes head{};  ///< the caller's, until `kept_head` holds a copy
  std::vector<std::byte> kept_head{};
  base::ConstBytes body{};             ///< this frame's part
  std::shared_ptr<SendState> state{};  ///< none for a good-bye
  std::uint64_t written = 0;

  std::uint64_t size() const { return sizeof(Frame) + head.size() + body.size(); }
};

/// The sending half of one socket. Writes from the caller's thread while the socket takes it, and
/// leaves the rest to the reactor. Whole messages pass chunks of large ones, frame by frame.
///
/// Thread-safety: all methods. A socket that refuses is left to the receiving half, which sees
/// everything that the peer still said before it sees the end.
class Outflow {
 public:
  Outflow(const base::Fd& fd, TrafficCounters& traffic) : fd_(fd), traffic_(traffic) {}

  /// Called when the reactor should (or need no longer) watch for room in the socket. Called with
  /// the lock held: must not call back.
  void on_armed(std::function<void(bool)> arm) { arm_ = std::move(arm); }

  /// False when nothing is accepted any more; then the part is not accounted for.
  bool post(Outgoing out);
  /// The socket has room.
  void on_writable();
  /// No more posts; a good-bye follows what is queued.
  void say_bye();
  /// Whether the good-bye has left (or cannot).
  bool drained();

  /// Removes the parts of `state` that have not begun.
  void withdraw(const SendState& state, const base::Error& error);
  /// Stops writing. Afterwards no memory of callers is read. Returns what was not finished.
  std::vector<Outgoing> stop();

 private:
  /// How much one call of the reactor writes, so that one stream does not hold up the others.
  static constexpr std::uint64_t kTurnBytes = 4U << 20;

  void write_some(std::uint64_t budget);
  bool next();
  std::uint64_t write_current();
  void arm(bool wanted);

  const base::Fd& fd_;
  TrafficCounters& traffic_;
  std::function<void(bool)> arm_;
  std::mutex mutex_;
  std::deque<Outgoing> whole_;
  std::deque<Outgoing> chunks_;
  std::optional<Outgoing> current_;
  bool armed_ = false;
  bool refused_ = false;  ///< the socket is broken for writing
  bool stopped_ = false;
  bool bye_wanted_ = false;
  bool bye_begun_ = false;
  bool bye_written_ = false;
};

}  // namespace gearshift::transport::tcp
