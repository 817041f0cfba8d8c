#include "gearshift/transport/matcher.h"

#include <atomic>
#include <cstring>
#include <mutex>
#include <new>
#include <set>
#include <utility>
#include <vector>

#include "gearshift/transport/requests.h"
#include "transport/patience.h"

namespace gearshift::transport {
namespace {

/// How far a posted receive has come. Changes under the matcher's monitor only.
///
///   kPosted   --arrive-->            kLanding --complete--> done
///   (post finds its message half in) kAttached --complete--> kCopying --> done
///
/// kPosted and kAttached can be withdrawn; kLanding only by breaking the connection, since the
/// transport writes into the caller's memory; kCopying ends by itself.
enum class Stage { kPosted, kLanding, kAttached, kCopying };

void copy(base::ConstBytes from, base::Bytes into) {
  if (from.data() != nullptr && into.data() != nullptr && !from.empty()) {
    std::memcpy(into.data(), from.data(), from.size());
  }
}

class Receive;

}  // namespace

struct Matcher::Impl {
  Impl(Router& r, base::Rank p) : router(r), peer(p), monitor(r.scheduler().make_monitor()) {}

  /// Caller holds the monitor. A receive that is done stays as it is: whoever waited for it may be
  /// reading the outcome, when the end of its link, seen by another task, comes to it too.
  void finish(Receive& receive, std::optional<base::Error> error);
  base::Error size_error(Tag tag, std::uint64_t sent, std::uint64_t expected) const {
    if (sent == expected) {
      return {base::ErrorCode::kMismatch,
              "rank " + std::to_string(peer.value) + " sent " + std::to_string(sent) +
                  " bytes that are part of something else than those that are expected (" +
                  describe(tag) + ")",
              peer.value};
    }
    return {base::ErrorCode::kMismatch,
            "rank " + std::to_string(peer.value) + " sent " + std::to_string(sent) +
                " bytes where " + std::to_string(expected) + " are expected (" + describe(tag) +
                ")",
            peer.value};
  }
  /// This process's fault, and not the sender's.
  base::Error no_memory(std::uint64_t bytes) const {
    return {base::ErrorCode::kIo, "no memory here for a message of " + std::to_string(bytes) +
                                      " bytes from rank " + std::to_string(peer.value)};
  }
  base::Result<base::Buffer> keep(base::ConstBytes body) const;
  /// The oldest receive with this tag, which is no longer posted then; or null.
  std::shared_ptr<Receive> take_posted(Tag tag);
  std::shared_ptr<Landing> land_posted(const std::shared_ptr<Receive>& receive, bool phantom);

  Router& router;
  const base::Rank peer;
  const std::unique_ptr<base::Monitor> monitor;
  int sleepers = 0;
  std::multimap<Tag, std::shared_ptr<Receive>> posted;
  /// Messages that nobody asked for yet, whole or under way, oldest first within a tag.
  std::multimap<Tag, std::shared_ptr<Landing>> early;
  std::set<std::shared_ptr<Landing>> under_way;
  std::optional<base::Error> failed;
  std::function<void(base::Error)> stuck;
  std::function<Movement()> moved;
  std::weak_ptr<Puller> puller;
};

namespace {

class Receive final : public RequestState {
 public:
  Receive(std::shared_ptr<Matcher::Impl> owner, Tag t, base::Bytes memory)
      : impl(std::move(owner)), tag(t), into(memory) {}

  bool done() const override { return done_.load(std::memory_order_acquire); }

  base::Status wait(base::TimePoint deadline) override {
    if (!done()) {
      // The reference may be the last but the caller's; with it the matcher goes, which locks.
      const std::shared_ptr<Puller> puller = impl->puller.lock();
      std::unique_lock<base::Monitor> lock(*impl->monitor);
      Patience patience = impl->moved
                              ? Patience(impl->router.scheduler().now(), deadline, movement())
                              : Patience(deadline);
      while (!done()) {
        if (pause(lock, puller.get(), patience.next_look()) || done()) continue;
        if (is_over(patience)) withdraw(patience);
      }
    }
    return error_ ? base::Status(*error_) : base::Status();
  }

  bool when_done(std::function<void()> then) override {
    {
      const std::lock_guard<base::Monitor> lock(*impl->monitor);
      if (!done()) then_ = std::exchange(then, nullptr);
    }
    if (then) {
      then();
    } else if (const std::shared_ptr<Puller> puller = impl->puller.lock()) {
      puller->stop_pulling();  // nobody waits who would read
    }
    return true;
  }

  const std::shared_ptr<Matcher::Impl> impl;
  const Tag tag;
  const base::Bytes into;
  Stage stage = Stage::kPosted;
  std::weak_ptr<Matcher::Landing> landing;  ///< set in kAttached

 private:
  friend struct Matcher::Impl;

  base::Error timeout() const {
    return {base::ErrorCode::kTimeout,
            "no complete message from rank " + std::to_string(impl->peer.value) + " in time (" +
                describe(tag) + ")",
            impl->peer.value};
  }

  /// Has begun to come. Before it does, what leaves counts as well as what comes: the message may
  /// be the answer to it.
  bool begun() const { return stage != Stage::kPosted; }
  std::uint64_t movement() const {
    const Movement moved = impl->moved();
    return begun() ? moved.in : moved.in + moved.out;
  }
  bool is_over(Patience& patience) const {
    return !impl->moved || patience.is_over(impl->router.scheduler().now(), movement(), begun());
  }

  /// False at `until`. Caller holds the monitor, and holds it again afterwards.
  bool pause(std::unique_lock<base::Monitor>& held, Puller* puller, base::TimePoint until) {
    if (puller) {
      held.unlock();
      const bool pulled = puller->pull(
          into.size(), [this] { return done(); }, until);
      held.lock();
      if (pulled) {
        if (impl->sleepers > 0) unattended(held, *puller);
        return impl->router.scheduler().now() < until;
      }
    }
    ++impl->sleepers;
    if (puller) unattended(held, *puller);
    const bool in_time = done() || impl->monitor->wait_until(until);
    --impl->sleepers;
    return in_time;
  }
  static void unattended(std::unique_lock<base::Monitor>& held, Puller& puller) {
    held.unlock();
    puller.stop_pulling();
    held.lock();
  }

  /// Caller holds the monitor, and holds it again afterwards.
  void withdraw(Patience& patience) {
    switch (stage) {
      case Stage::kPosted: {
        auto [first, last] = impl->posted.equal_range(tag);
        while (first != last && first->second.get() != this) ++first;
        // The map's reference may be the last but the caller's handle, which outlives this call.
        if (first != last) impl->posted.erase(first);
        impl->finish(*this, timeout());
        break;
      }
      case Stage::kAttached:
        if (auto message = landing.lock()) {
          message->request.reset();
          message->handle.reset();
          impl->early.emplace(tag, std::move(message));
        }
        impl->finish(*this, timeout());
        break;
      case Stage::kCopying:
        patience = Patience(base::TimePoint::never());
        break;
      case Stage::kLanding: {
        auto abort_and_quiesce = impl->stuck;
        impl->monitor->unlock();
        if (abort_and_quiesce) abort_and_quiesce(timeout());
        impl->monitor->lock();
        impl->finish(*this, timeout());
        break;
      }
    }
  }

  std::atomic<bool> done_{false};
  std::unique_ptr<base::Error> error_;  ///< written before done_, constant after
  std::function<void()> then_;          ///< called by who completes it, under the monitor
};

}  // namespace

void Matcher::Impl::finish(Receive& receive, std::optional<base::Error> error) {
  if (receive.done()) return;
  if (error) receive.error_ = std::make_unique<base::Error>(std::move(*error));
  receive.done_.store(true, std::memory_order_release);
  if (sleepers > 0) monitor->notify_all();
  if (const auto then = std::exchange(receive.then_, nullptr)) then();
}

base::Result<base::Buffer> Matcher::Impl::keep(base::ConstBytes body) const {
  try {
    return base::Buffer::copy_of(body);
  } catch (const std::bad_alloc&) {
    return no_memory(body.size());
  }
}

std::shared_ptr<Receive> Matcher::Impl::take_posted(Tag tag) {
  const auto found = posted.lower_bound(tag);
  if (found == posted.end() || found->first != tag) return nullptr;
  std::shared_ptr<Receive> receive = std::move(found->second);
  posted.erase(found);
  return receive;
}

std::shared_ptr<Matcher::Landing> Matcher::Impl::land_posted(
    const std::shared_ptr<Receive>& receive, bool phantom) {
  auto landing = std::make_shared<Landing>();
  landing->tag = receive->tag;
  landing->into =
      phantom ? base::Bytes(static_cast<std::byte*>(nullptr), receive->into.size()) : receive->into;
  landing->request = receive;
  landing->handle = receive;
  receive->stage = Stage::kLanding;
  under_way.insert(landing);
  return landing;
}

Matcher::Matcher(Router& router, base::Rank peer) : impl_(std::make_shared<Impl>(router, peer)) {}

Matcher::~Matcher() {
  // Ends the cycle between the posted receives and Impl, and whoever still waits.
  fail({base::ErrorCode::kClosed, "the connection was destroyed"});
}

Request Matcher::post(Tag tag, base::Bytes into) {
  if (is_service(tag)) {
    return failed_request({base::ErrorCode::kInvalidArgument,
                           "service messages come through their mailbox (" + describe(tag) + ")"});
  }
  std::shared_ptr<Landing> landing;
  {
    std::lock_guard<base::Monitor> lock(*impl_->monitor);
    auto found = impl_->early.lower_bound(tag);
    if (found == impl_->early.end() || found->first != tag) {
      if (impl_->failed) return failed_request(*impl_->failed);
      auto receive = std::make_shared<Receive>(impl_, tag, into);
      impl_->posted.emplace(tag, receive);
      return Request(std::move(receive));
    }
    landing = std::move(found->second);
    impl_->early.erase(found);
    if (landing->into.size() != into.size() || landing->tag.check != tag.check) {
      return failed_request(impl_->size_error(tag, landing->into.size(), into.size()));
    }
    if (impl_->under_way.contains(landing)) {
      auto receive = std::make_shared<Receive>(impl_, tag, into);
      receive->stage = Stage::kAttached;
      receive->landing = landing;
      landing->request = receive;
      landing->handle = receive;
      return Request(std::move(receive));
    }
  }
  copy(landing->own.view(), into);
  return {};
}

base::Result<std::shared_ptr<Matcher::Landing>> Matcher::arrive(Tag tag, base::ConstBytes head,
                                                                std::uint64_t body_bytes,
                                                                bool phantom) {
  std::lock_guard<base::Monitor> lock(*impl_->monitor);
  if (impl_->failed) return *impl_->failed;
  const bool service = is_service(tag);
  bool wanted = true;
  if (const auto receive = service ? nullptr : impl_->take_posted(tag)) {
    const bool fits = receive->into.size() == body_bytes && receive->tag.check == tag.check;
    if (fits) return impl_->land_posted(receive, phantom);
    impl_->finish(*receive, impl_->size_error(tag, body_bytes, receive->into.size()));
    wanted = false;
  }
  auto landing = std::make_shared<Landing>();
  landing->tag = tag;
  try {
    landing->own = phantom ? base::Buffer::phantom(body_bytes) : base::Buffer(body_bytes);
  } catch (const std::bad_alloc&) {
    return impl_->no_memory(body_bytes);
  }
  landing->into = landing->own.view();
  if (service) {
    landing->head.assign(head.begin(), head.end());
  } else if (wanted) {
    impl_->early.emplace(tag, landing);
  }
  impl_->under_way.insert(landing);
  return landing;
}

void Matcher::complete(const std::shared_ptr<Landing>& landing) {
  std::shared_ptr<Receive> receive;
  {
    std::lock_guard<base::Monitor> lock(*impl_->monitor);
    if (impl_->under_way.erase(landing) == 0) return;  // failed meanwhile
    receive = std::static_pointer_cast<Receive>(std::move(landing->handle));
    if (receive && receive->stage == Stage::kLanding) {
      impl_->finish(*receive, std::nullopt);
      return;
    }
    if (receive) receive->stage = Stage::kCopying;
  }
  if (is_service(landing->tag)) {
    impl_->router.deliver(
        {impl_->peer, landing->tag, std::move(landing->head), std::move(landing->own)});
  } else if (receive) {
    copy(landing->own.view(), receive->into);
    std::lock_guard<base::Monitor> lock(*impl_->monitor);
    impl_->finish(*receive, std::nullopt);
  }
}

base::Status Matcher::arrive_whole(Tag tag, base::ConstBytes head, base::ConstBytes body) {
  if (is_service(tag)) {
    GEARSHIFT_ASSIGN_OR_RETURN(base::Buffer kept, impl_->keep(body));
    return deliver(tag, head, std::move(kept));
  }
  std::lock_guard<base::Monitor> lock(*impl_->monitor);
  if (impl_->failed) return *impl_->failed;
  const std::shared_ptr<Receive> receive = impl_->take_posted(tag);
  if (!receive) {
    GEARSHIFT_ASSIGN_OR_RETURN(base::Buffer kept, impl_->keep(body));
    auto landing = std::make_shared<Landing>();
    landing->tag = tag;
    landing->own = std::move(kept);
    landing->into = landing->own.view();
    impl_->early.emplace(tag, std::move(landing));
    return {};
  }
  if (receive->into.size() != body.size() || receive->tag.check != tag.check) {
    impl_->finish(*receive, impl_->size_error(tag, body.size(), receive->into.size()));
    return {};
  }
  copy(body, receive->into);
  impl_->finish(*receive, std::nullopt);
  return {};
}

base::Status Matcher::deliver(Tag tag, base::ConstBytes head, base::Buffer body) {
  {
    std::lock_guard<base::Monitor> lock(*impl_->monitor);
    if (impl_->failed) return *impl_->failed;
  }
  impl_->router.deliver({impl_->peer, tag, {head.begin(), head.end()}, std::move(body)});
  return {};
}

void Matcher::fail(const base::Error& reason) {
  std::lock_guard<base::Monitor> lock(*impl_->monitor);
  if (impl_->failed) return;
  impl_->failed = reason;
  for (auto& [tag, receive] : impl_->posted) impl_->finish(*receive, reason);
  impl_->posted.clear();
  std::erase_if(impl_->early,
                [this](const auto& entry) { return impl_->under_way.contains(entry.second); });
  for (const auto& landing : impl_->under_way) {
    if (auto receive = std::static_pointer_cast<Receive>(std::move(landing->handle))) {
      impl_->finish(*receive, reason);
    }
  }
  impl_->under_way.clear();
}

void Matcher::on_stuck(std::function<void(base::Error)> abort_and_quiesce) {
  std::lock_guard<base::Monitor> lock(*impl_->monitor);
  impl_->stuck = std::move(abort_and_quiesce);
}

void Matcher::pull_by(std::weak_ptr<Puller> puller) { impl_->puller = std::move(puller); }

void Matcher::follow(std::function<Movement()> moved) {
  std::lock_guard<base::Monitor> lock(*impl_->monitor);
  impl_->moved = std::move(moved);
}

}  // namespace gearshift::transport
