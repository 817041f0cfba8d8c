#include "transport/shm/engine.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "gearshift/base/threads.h"

namespace gearshift::transport::shm {
namespace {

/// The engine's patience with silent links. Short, since a task that needs an answer quickly
/// waits for it, and then polls by itself.
constexpr base::Duration kEngineYieldsFor = std::chrono::microseconds(50);
constexpr int kRoundsPerLook = 32;
/// How soon to try again to send records that a socket had no room for.
constexpr int kRetryMs = 5;

base::Error system_error(const char* what) {
  return {base::ErrorCode::kIo, std::string(what) + ": " + std::system_category().message(errno)};
}

}  // namespace

void Engine::Bell::ring() const {
  const std::uint64_t one = 1;
  // It can only fail when the counter is full, and then the thread is awake anyhow.
  [[maybe_unused]] const auto written = ::write(event_.get(), &one, sizeof one);
}

void Engine::Bell::silence() const {
  std::uint64_t count = 0;
  [[maybe_unused]] const auto got = ::read(event_.get(), &count, sizeof count);
}

base::Result<std::unique_ptr<Engine>> Engine::create(std::shared_ptr<Router> router) {
  base::Fd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll) return system_error("epoll_create1");
  base::Fd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event) return system_error("eventfd");
  epoll_event entry{};
  entry.events = EPOLLIN;
  entry.data.ptr = nullptr;
  if (::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, event.get(), &entry) != 0) {
    return system_error("epoll_ctl");
  }
  auto bell = std::make_shared<Bell>(std::move(event));
  std::unique_ptr<Engine> engine(new Engine(std::move(router), std::move(epoll), std::move(bell)));
  engine->thread_ = base::spawn_patiently(engine->router_->scheduler(), "gs-shm",
                                          [self = engine.get()] { self->run(); });
  return engine;
}

Engine::Engine(std::shared_ptr<Router> router, base::Fd epoll, std::shared_ptr<Bell> bell)
    : router_(std::move(router)),
      epoll_(std::move(epoll)),
      bell_(std::move(bell)),
      backoff_(router_->scheduler(), kEngineYieldsFor) {}

Engine::~Engine() {
  stopping_.store(true);
  bell_->ring();
  if (thread_) thread_->join();  // none if there was no thread to have
}

base::Status Engine::watch_listener(int listener, std::function<bool()> on_ready) {
  on_listener_ = std::move(on_ready);
  listener_ = listener;
  epoll_event entry{};
  entry.events = EPOLLIN;
  entry.data.ptr = this;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, listener, &entry) != 0) {
    return system_error("epoll_ctl");
  }
  return {};
}

void Engine::forget_listener(int listener) {
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, listener, nullptr);
}

base::Result<std::shared_ptr<Link>> Engine::add(LinkParts parts) {
  auto link = std::make_shared<Link>(
      router_, [bell = bell_] { bell->ring(); }, std::move(parts));
  link->begin();
  std::lock_guard<std::mutex> lock(mutex_);
  epoll_event entry{};
  entry.events = EPOLLIN;
  entry.data.ptr = link.get();
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, link->socket(), &entry) != 0) {
    return system_error("epoll_ctl");
  }
  links_.push_back(link);
  // From here on the peer rings the bell; what it wrote before is found now.
  link->begin_polling();
  link->end_polling();
  return link;
}

void Engine::run() {
  bool again = false;
  while (!stopping_.load()) {
    const bool awake = poll_awake();
    const bool rested = listener_rests_;
    wait_events(awake ? 0 : (again || rested ? kRetryMs : -1));
    if (rested && on_listener_()) heed_listener(true);
    again = sweep();
  }
  for (const auto& link : awake_) link->end_polling();
}

bool Engine::poll_awake() {
  for (int round = 0; round < kRoundsPerLook && !awake_.empty(); ++round) {
    bool moved = false;
    std::erase_if(awake_, [&](const std::shared_ptr<Link>& link) {
      if (link->poll()) {
        moved = true;
        return false;
      }
      // A task that waits polls anyway; two would only take the core from each other.
      if (!link->others_poll()) return false;
      link->end_polling();
      return true;
    });
    if (moved) {
      backoff_.reset();
    } else if (!backoff_.pause()) {
      for (const auto& link : awake_) link->end_polling();
      awake_.clear();
    }
  }
  return !awake_.empty();
}

void Engine::wake_link(const std::shared_ptr<Link>& link) {
  if (std::find(awake_.begin(), awake_.end(), link) != awake_.end()) return;
  link->begin_polling();
  awake_.push_back(link);
  backoff_.reset();
}

void Engine::wait_events(int timeout_ms) {
  constexpr int kMaxEvents = 32;
  epoll_event events[kMaxEvents];
  const int count = ::epoll_wait(epoll_.get(), events, kMaxEvents, timeout_ms);
  for (int i = 0; i < count; ++i) {
    void* source = events[i].data.ptr;
    if (source == nullptr) {
      bell_->silence();
    } else if (source == this) {
      if (!on_listener_()) heed_listener(false);
    } else {
      // Alive: links leave `links_` on this thread only, after the events of a batch.
      const auto link = static_cast<Link*>(source)->shared_from_this();
      link->on_socket();
      if (!link->broken()) wake_link(link);
    }
  }
}

/// After `forget_listener`, nothing.
void Engine::heed_listener(bool heeded) {
  listener_rests_ = !heeded;
  epoll_event entry{};
  if (heeded) entry.events = EPOLLIN;
  entry.data.ptr = this;
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, listener_, &entry);
}

bool Engine::sweep() {
  std::vector<std::shared_ptr<Link>> gone;
  bool again = false;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    std::erase_if(links_, [&](const std::shared_ptr<Link>& link) {
      if (!link->broken()) {
        if (link->take_kick()) wake_link(link);
        again = link->flush_control() || again;
        return false;
      }
      ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, link->socket(), nullptr);
      gone.push_back(link);
      return true;
    });
  }
  for (const auto& link : gone) {
    if (std::erase(awake_, link) > 0) link->end_polling();
    // Without locks: the listener may break other links of this engine.
    if (const auto loss = link->take_loss()) router_->report_lost(link->peer(), *loss);
  }
  return again;
}

}  // namespace gearshift::transport::shm
