#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "gearshift/transport/router.h"
#include "transport/shm/backoff.h"
#include "transport/shm/link.h"

namespace gearshift::transport::shm {

/// The one thread of a transport: moves bytes when no task waits for them, watches the sockets,
/// and reports lost peers. It sleeps in epoll unless a link was active a moment ago.
///
/// Thread-safety: all methods. Destroying it stops the thread; links that remain stay valid, but
/// only their waiters move bytes then.
class Engine {
 public:
  static base::Result<std::unique_ptr<Engine>> create(std::shared_ptr<Router> router);
  ~Engine();

  /// Calls `on_ready` on the engine's thread whenever `listener` has a connection to accept; where
  /// it answers false, not before a moment has passed.
  base::Status watch_listener(int listener, std::function<bool()> on_ready);
  /// Stops watching; a call that has begun may still be running.
  void forget_listener(int listener);
  /// Makes a link and serves it until it breaks.
  base::Result<std::shared_ptr<Link>> add(LinkParts parts);

 private:
  /// Wakes the thread; shared with the links, which may outlive the engine.
  class Bell {
   public:
    explicit Bell(base::Fd event) : event_(std::move(event)) {}
    void ring() const;
    void silence() const;
    int fd() const { return event_.get(); }

   private:
    base::Fd event_;
  };

  Engine(std::shared_ptr<Router> router, base::Fd epoll, std::shared_ptr<Bell> bell);
  void run();
  /// Polls the links that are awake; false when all have gone to rest.
  bool poll_awake();
  void wake_link(const std::shared_ptr<Link>& link);
  void wait_events(int timeout_ms);
  /// Whether the listener's connections are news.
  void heed_listener(bool heeded);
  /// Lets go of broken links, wakes those that ask for it; true when one needs another look soon.
  bool sweep();

  const std::shared_ptr<Router> router_;
  const base::Fd epoll_;
  const std::shared_ptr<Bell> bell_;
  std::function<bool()> on_listener_;
  int listener_ = -1;
  bool listener_rests_ = false;  ///< the thread's own

  std::mutex mutex_;
  std::vector<std::shared_ptr<Link>> links_;  ///< under mutex_
  std::vector<std::shared_ptr<Link>> awake_;  ///< the thread's own
  Backoff backoff_;                           ///< the thread's own
  std::atomic<bool> stopping_{false};
  std::unique_ptr<base::Task> thread_;
};

}  // namespace gearshift::transport::shm
