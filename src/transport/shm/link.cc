#include "transport/shm/link.h"

#include <sys/socket.h>

#include "gearshift/transport/requests.h"
#include "transport/shm/backoff.h"

namespace gearshift::transport::shm {
using base::Error;
using base::ErrorCode;

namespace {

/// How long a waiting task gives its core away before it sleeps.
constexpr base::Duration kLinkYieldsFor = std::chrono::milliseconds(1);

/// Ring 0 leads from the region's creator to its peer, ring 1 back.
RingControl* control_of(const SharedRegion& region, int ring) {
  return reinterpret_cast<RingControl*>(region.view().data()) + ring;
}
std::byte* data_of(const SharedRegion& region, int ring, std::size_t ring_bytes) {
  return region.view().data() + 2 * sizeof(RingControl) + (ring == 0 ? 0 : ring_bytes);
}

}  // namespace

template <typename Done>
void Link::assist(const Done& done, base::TimePoint deadline) {
  if (done()) return;
  begin_polling();
  Backoff backoff(router_->scheduler(), kLinkYieldsFor);
  while (!done() && !broken()) {
    if (poll()) {
      backoff.reset();
      continue;
    }
    if (!backoff.pause()) break;
    if (!backoff.spinning() && router_->scheduler().now() >= deadline) break;
  }
  end_polling();
}

namespace {

/// A posted receive whose waiter moves bytes itself before it sleeps.
class AssistedReceive final : public RequestState {
 public:
  AssistedReceive(std::shared_ptr<Link> link, Request inner)
      : link_(std::move(link)), inner_(std::move(inner)) {}
  base::Status wait(base::TimePoint deadline) override {
    link_->assist([this] { return inner_.done(); }, deadline);
    return inner_.wait(deadline);
  }
  bool done() const override { return inner_.done(); }
  bool when_done(std::function<void()> then) override { return inner_.when_done(std::move(then)); }

 private:
  const std::shared_ptr<Link> link_;
  const Request inner_;
};

Error no_phantoms() { return {ErrorCode::kInvalidArgument, "shared memory carries no phantoms"}; }

}  // namespace

std::size_t link_region_bytes(std::size_t ring_bytes) {
  return 2 * (sizeof(RingControl) + ring_bytes);
}

Link::Link(std::shared_ptr<Router> router, std::function<void()> wake, LinkParts parts)
    : router_(std::move(router)),
      wake_(std::move(wake)),
      peer_(parts.peer),
      socket_(std::move(parts.socket)),
      region_(std::move(parts.region)),
      alive_(std::move(parts.alive)),
      reader_(control_of(*region_, parts.creator ? 1 : 0),
              data_of(*region_, parts.creator ? 1 : 0, parts.ring_bytes), parts.ring_bytes),
      writer_(control_of(*region_, parts.creator ? 0 : 1),
              data_of(*region_, parts.creator ? 0 : 1, parts.ring_bytes), parts.ring_bytes),
      matcher_(*router_, peer_),
      inbox_(reader_, matcher_),
      outbox_(writer_),
      lent_(parts.least_lent_bytes),
      state_(router_->scheduler().make_monitor()) {
  // The receives that may call this keep the link alive while they wait.
  matcher_.on_stuck([this](const Error& error) { give_up(error); });
}

Traffic Link::traffic() const {
  return {outbox_.bytes(), inbox_.bytes(), outbox_.messages(), inbox_.messages()};
}

Error Link::about_peer(ErrorCode code, const std::string& what) const {
  return {code, "rank " + std::to_string(peer_.value) + " " + what, peer_.value};
}

Error Link::closed_here() const {
  return {ErrorCode::kClosed,
          "this process closed the connection to rank " + std::to_string(peer_.value)};
}

Error Link::reason() const {
  std::lock_guard<base::Monitor> lock(*state_);
  return reason_.value_or(about_peer(ErrorCode::kPeerLost, "is gone"));
}

base::Status Link::check_send(Tag tag, base::ConstBytes head, base::ConstBytes body) const {
  GEARSHIFT_RETURN_IF_ERROR(check_outgoing(tag, head, body));
  if (base::is_phantom(head) || base::is_phantom(body)) return no_phantoms();
  return {};
}

Request Link::post(Tag tag, base::ConstBytes head, base::ConstBytes body, bool may_lend) {
  if (const base::Status fine = check_send(tag, head, body); !fine) {
    return failed_request(fine.error());
  }
  std::shared_ptr<SendProgress> progress;
  bool finished = false;
  {
    std::lock_guard<std::mutex> lock(send_);
    if (broken()) return failed_request(reason());
    const auto place = may_lend ? lent_.find(body) : std::nullopt;
    progress =
        place ? outbox_.add_lent(tag, head, body.size(), *place) : outbox_.add(tag, head, body);
    finished = outbox_.take_finished();
  }
  after_adding(finished);
  if (progress == nullptr) return {};
  return Request(std::make_shared<QueuedSend>(shared_from_this(), std::move(progress)));
}

Request Link::recv(Tag tag, base::Bytes into) {
  if (base::is_phantom(into)) return failed_request(no_phantoms());
  Request inner = matcher_.post(tag, into);
  if (inner.done()) return inner;
  return Request(std::make_shared<AssistedReceive>(shared_from_this(), std::move(inner)));
}

base::Status Link::wait_sent(const std::shared_ptr<SendProgress>& progress,
                             base::TimePoint deadline) {
  const auto done = [&] { return progress->done.load(std::memory_order_acquire); };
  assist(done, deadline);
  {
    std::lock_guard<base::Monitor> lock(*state_);
    while (!done() && state_->wait_until(deadline)) {
    }
  }
  if (!done()) {
    const Error timeout = about_peer(ErrorCode::kTimeout, "did not take a message in time");
    std::unique_lock<std::mutex> lock(send_);
    const Outbox::Withdrawn withdrawn = outbox_.withdraw(progress);
    lock.unlock();
    if (withdrawn == Outbox::Withdrawn::kHalfSent) give_up(timeout);
    if (withdrawn != Outbox::Withdrawn::kDone) return timeout;
  }
  return progress->error ? base::Status(*progress->error) : base::Status();
}

bool Link::poll() {
  if (broken()) return false;
  const bool received = poll_inbox();
  const bool sent = outbox_.pending() && poll_outbox();
  return received || sent;
}

bool Link::poll_inbox() {
  std::unique_lock<std::mutex> lock(receive_, std::try_to_lock);
  if (!lock || broken()) return false;
  const auto drained = drain(reader_.capacity() / 2, lock);
  if (!drained) {
    give_up(drained.error());
    return false;
  }
  if (*drained == Inbox::Drained::kGoodbye) {
    break_link(about_peer(ErrorCode::kClosed, "closed the connection"), Loss::kSilent);
    return false;
  }
  if (*drained == Inbox::Drained::kNothing) return false;
  if (reader_.take_waiter()) ring_bell();
  return true;
}

bool Link::poll_outbox() {
  std::unique_lock<std::mutex> lock(send_, std::try_to_lock);
  if (!lock || broken()) return false;
  const bool pushed = outbox_.push(writer_.capacity() / 2);
  const bool finished = outbox_.take_finished();
  const bool corrupt = outbox_.corrupt();
  lock.unlock();
  if (corrupt) {
    give_up(about_peer(ErrorCode::kProtocol, "wrote an impossible position into the ring"));
    return false;
  }
  if (!pushed) return false;
  if (writer_.take_sleeper()) ring_bell();
  if (finished) notify_waiters();
  return true;
}

void Link::begin_polling() {
  if (pollers_.fetch_add(1) == 0) reader_.announce_sleep(false);
}

void Link::end_polling() {
  if (pollers_.fetch_sub(1) != 1 || broken()) return;
  reader_.announce_sleep(true);
  // What came between the last look and the announcement rang no bell.
  if (reader_.readable().value_or(1) > 0) kick();
  if (outbox_.pending()) arm_outbox();
}

void Link::arm_outbox() {
  writer_.announce_wait();
  if (writer_.space().value_or(writer_.capacity()) >= sizeof(FrameHeader)) kick();
}

void Link::kick() {
  kicked_.store(true);
  wake_();
}

void Link::ring_bell() {
  // A full socket is no loss: the peer has records to read, and looks at its rings afterwards.
  send_record(socket_.get(), ControlRecord{});
}

void Link::notify_waiters() {
  std::lock_guard<base::Monitor> lock(*state_);
  state_->notify_all();
}

void Link::break_link(const Error& error, Loss loss) {
  bool first = false;
  {
    std::lock_guard<base::Monitor> lock(*state_);
    if (!reason_) {
      first = true;
      reason_ = error;
      if (loss == Loss::kReport) loss_ = error;
    }
    broken_.store(true, std::memory_order_release);
  }
  const Error why = reason();
  {
    // Whoever is copying stops at the next piece; only then may the receives be given up.
    std::lock_guard<std::mutex> lock(receive_);
    matcher_.fail(why);
  }
  {
    std::lock_guard<std::mutex> lock(send_);
    outbox_.fail(why);
  }
  notify_waiters();
  if (!first) return;
  if (alive_) alive_->store(false);
  ::shutdown(socket_.get(), SHUT_RDWR);
  wake_();
}

void Link::say_abort(const Error& reason) {
  ControlRecord record;
  record.kind = ControlRecord::Kind::kAbort;
  record.set_text(reason.to_string());
  // If the socket is full, the peer learns of the end all the same, without the reason.
  send_record(socket_.get(), record);
}

void Link::give_up(const Error& error) {
  if (!broken()) say_abort(error);
  break_link(error, Loss::kReport);
}

void Link::abort(const Error& reason) {
  if (broken()) return;
  say_abort(reason);
  break_link(reason, Loss::kSilent);
}

void Link::close(base::TimePoint deadline) {
  std::shared_ptr<SendProgress> progress;
  {
    std::lock_guard<std::mutex> lock(send_);
    if (broken()) return;
    progress = outbox_.add_goodbye();
    closing_ = true;
  }
  if (writer_.take_sleeper()) ring_bell();
  notify_waiters();
  if (progress != nullptr) {
    arm_outbox();
    // Late or not, the link ends here; without the good-bye the peer sees a loss.
    (void)wait_sent(progress, deadline);
  }
  // If the peer said good-bye first, its last messages have come by now.
  (void)drain_rest();
  break_link(closed_here(), Loss::kSilent);
}

std::optional<Error> Link::take_loss() {
  std::lock_guard<base::Monitor> lock(*state_);
  return std::exchange(loss_, std::nullopt);
}

}  // namespace gearshift::transport::shm
