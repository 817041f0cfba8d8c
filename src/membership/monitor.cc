#include "gearshift/membership/monitor.h"

#include <algorithm>
#include <mutex>
#include <utility>

#include "gearshift/base/log.h"
#include "gearshift/base/threads.h"
#include "membership/peers.h"
#include "membership/wire.h"

namespace gearshift::membership {
namespace {

using base::Error;
using base::ErrorCode;
using transport::kAbortService;
using transport::kHeartbeatService;

/// What lies no further apart than this is taken for one event.
constexpr base::Duration kSimultaneous = std::chrono::milliseconds(100);

/// Two tasks: `hear` notes heartbeats as they come; `watch` does everything else, one piece of
/// news at a time, so that the order of events is the order of one queue.
class GroupMonitor final : public Monitor {
 public:
  explicit GroupMonitor(const group::Group& group)
      : group_(group),
        scheduler_(group.scheduler()),
        own_(group.rank().value),
        timeout_(group.timeout()),
        interval_(std::min<base::Duration>(timeout_ / 6, std::chrono::seconds(1))),
        farewell_(std::min<base::Duration>(timeout_ / 8, std::chrono::seconds(1))),
        news_(group.router().mailbox(kAbortService)),
        heartbeats_(group.router().mailbox(kHeartbeatService)),
        monitor_(group.scheduler().make_monitor()),
        peers_(group.size(), group.rank(), scheduler_.now()),
        beats_(static_cast<std::size_t>(group.size())) {
    group_.router().on_lost([this](base::Rank peer, const Error& error) {
      Notice notice;
      notice.kind = NoticeKind::kLost;
      notice.code = error.code;
      notice.culprit = peer.value;
      notice.what = error.message;
      // A link that broke for want of memory or descriptors here: its peer is well.
      if (error.code == ErrorCode::kIo) {
        notice.kind = NoticeKind::kFail;
        notice.culprit = own_;
      }
      tell_self(notice);
    });
    try {
      hear_task_ = base::spawn_patiently(scheduler_, "heartbeat", [this] { hear(); });
      watch_task_ = base::spawn_patiently(scheduler_, "watch", [this] { watch(); });
    } catch (...) {  // no thread to have: the first must not wait for a life that never begins
      stop();
      throw;
    }
  }

  ~GroupMonitor() override { stop(); }

  std::optional<Error> failure() const override {
    std::lock_guard<base::Monitor> lock(*monitor_);
    return failure_;
  }

  void fail(const Error& error) override {
    Notice notice;
    notice.kind = NoticeKind::kFail;
    notice.code = error.code;
    notice.culprit = error.culprit;
    notice.what = error.message;
    tell_self(notice);
    // The caller may exit next: the others must know by then.
    const base::TimePoint deadline = scheduler_.after(farewell_ + interval_);
    std::lock_guard<base::Monitor> lock(*monitor_);
    while (!failure_ && !watch_ended_ && monitor_->wait_until(deadline)) {
    }
  }

  std::vector<PeerReport> report() const override {
    const ProgressNote own = own_progress();
    std::lock_guard<base::Monitor> lock(*monitor_);
    return peers_.report(own, scheduler_.now());
  }

  std::string report_text() const override {
    const ProgressNote own = own_progress();
    std::lock_guard<base::Monitor> lock(*monitor_);
    return peers_.report_text(own, scheduler_.now());
  }

  Error explain(const Error& error) const override;
  void stop() override;

 private:
  /// Why the group ends, as told to every rank.
  struct Ending {
    ErrorCode code;
    int culprit;
    std::string what;
  };

  ProgressNote own_progress() const;
  ProgressNote own_progress_at_end() const;
  void tell_self(const Notice& notice);
  transport::Request send(int peer, std::uint16_t service, const std::vector<std::byte>& head);

  void hear();
  void watch();
  void watch_until_end();
  void beat(base::TimePoint now);
  void take(const transport::Message& message);
  void take_own(const Notice& notice);
  void take_failure(int from, std::uint32_t sequence, const Notice& notice);
  void judge(base::TimePoint now);
  base::TimePoint next_wake() const;
  void say_leaving();
  void end_group();
  void await_others();
  bool others_informed() const;
  Error account(const Ending& ending) const;

  const group::Group group_;
  base::Scheduler& scheduler_;
  const int own_;
  const base::Duration timeout_;
  const base::Duration interval_;
  /// How long the end of the group waits for all others to know of it.
  const base::Duration farewell_;
  const std::shared_ptr<transport::Mailbox> news_;
  const std::shared_ptr<transport::Mailbox> heartbeats_;

  /// Guards what follows, down to the next comment.
  std::unique_ptr<base::Monitor> monitor_;
  Peers peers_;
  std::optional<Error> failure_;
  bool stopping_ = false;
  bool watch_ended_ = false;
  bool stopped_ = false;

  /// Used by the watch task only.
  std::uint32_t sequence_ = 0;
  std::vector<transport::Request> beats_;
  base::TimePoint next_beat_;
  base::TimePoint judge_from_;
  std::optional<Ending> ending_;
  base::TimePoint ended_at_;
  /// Set when the error is this rank's own: its failure is what was passed to `fail`.
  std::optional<Error> own_error_;
  std::vector<bool> informed_;

  std::unique_ptr<base::Task> hear_task_;
  std::unique_ptr<base::Task> watch_task_;
};

ProgressNote GroupMonitor::own_progress() const {
  const group::Progress::Snapshot at = group_.progress().snapshot();
  const double seconds = base::to_seconds(scheduler_.now() - at.since);
  if (at.operation != "idle" || at.previous.empty()) return {at.step, at.operation, seconds};
  return {at.step, "idle after " + at.previous, seconds};
}

/// An operation over a link that breaks fails at once, before the account of it is written: what
/// ended with the group, or a moment before, is what this rank was in.
ProgressNote GroupMonitor::own_progress_at_end() const {
  const group::Progress::Snapshot at = group_.progress().snapshot();
  const bool cut_off =
      at.operation == "idle" && !at.previous.empty() && at.since + kSimultaneous >= ended_at_;
  return cut_off ? ProgressNote{at.step, at.previous, 0} : own_progress();
}

void GroupMonitor::tell_self(const Notice& notice) {
  group_.router().deliver(
      {base::Rank(own_), transport::Tag(kAbortService, 0, 0), encode(notice), {}});
}

transport::Request GroupMonitor::send(int peer, std::uint16_t service,
                                      const std::vector<std::byte>& head) {
  return group_.link(base::Rank(peer)).send(transport::Tag(service, ++sequence_, 0), head, {});
}

void GroupMonitor::hear() {
  while (true) {
    auto message = heartbeats_->pop(base::TimePoint::never());
    const base::TimePoint now = scheduler_.now();
    std::lock_guard<base::Monitor> lock(*monitor_);
    if (!message || stopping_) return;
    const int from = message->from.value;
    if (from < 0 || from >= group_.size() || from == own_) continue;
    auto note = decode_progress(message->head);
    if (note) peers_.heard(from, message->tag.sequence(), std::move(*note), now);
  }
}

void GroupMonitor::watch() {
  watch_until_end();
  scheduler_.tick(base::Duration::max());
  if (ending_) {
    end_group();
  } else {
    say_leaving();
  }
  std::lock_guard<base::Monitor> lock(*monitor_);
  watch_ended_ = true;
  monitor_->notify_all();
}

void GroupMonitor::watch_until_end() {
  informed_.assign(static_cast<std::size_t>(group_.size()), false);
  beat(scheduler_.now());
  while (!ending_) {
    const base::TimePoint wake = next_wake();
    scheduler_.tick(interval_);
    auto message = news_->pop(wake);
    const base::TimePoint now = scheduler_.now();
    // This process was stopped or starved, so it is its own ears that were shut: what the peers
    // said meanwhile must have time to come in before anyone is accused.
    if (wake + interval_ < now) judge_from_ = now + 2 * interval_;
    if (message) {
      take(*message);
    } else if (message.error().code != ErrorCode::kTimeout) {
      return;
    }
    {
      std::lock_guard<base::Monitor> lock(*monitor_);
      if (stopping_) return;
    }
    if (now >= next_beat_) beat(now);
    if (!ending_) judge(now);
  }
}

base::TimePoint GroupMonitor::next_wake() const {
  std::lock_guard<base::Monitor> lock(*monitor_);
  const std::optional<int> silent = peers_.most_silent();
  if (!silent) return next_beat_;
  const base::TimePoint now = scheduler_.now();
  const base::TimePoint expires = now + (timeout_ - peers_.silence(*silent, now));
  return std::min(next_beat_, std::max(expires, judge_from_));
}

void GroupMonitor::beat(base::TimePoint now) {
  next_beat_ = now + interval_;
  const std::vector<std::byte> head = encode(own_progress());
  for (int r = 0; r < group_.size(); ++r) {
    {
      std::lock_guard<base::Monitor> lock(*monitor_);
      if (!peers_.awaited(r)) continue;
      // Came at some time since the last beat; the earliest is assumed.
      const auto traffic = group_.link(base::Rank(r)).traffic();
      peers_.saw_traffic(r, traffic.bytes_received, {now.since_origin - interval_});
    }
    transport::Request& last = beats_[static_cast<std::size_t>(r)];
    // To a peer that does not read, one heartbeat waits, not a heap of them.
    if (!last.done()) continue;
    last = send(r, kHeartbeatService, head);
    if (!last.done()) continue;
    const base::Status sent = last.wait(now);
    if (sent || sent.error().code != ErrorCode::kClosed) continue;
    std::lock_guard<base::Monitor> lock(*monitor_);
    peers_.left(r);
    monitor_->notify_all();
  }
}

void GroupMonitor::judge(base::TimePoint now) {
  if (now < judge_from_) return;
  std::lock_guard<base::Monitor> lock(*monitor_);
  const std::optional<int> silent = peers_.most_silent();
  if (!silent || peers_.silence(*silent, now) < timeout_) return;
  ending_ = {ErrorCode::kPeerLost, *silent,
             "rank " + std::to_string(*silent) + " has been silent for " +
                 seconds_text(base::to_seconds(peers_.silence(*silent, now))) +
                 " (frozen, or its host is unreachable)"};
}

void GroupMonitor::take(const transport::Message& message) {
  auto notice = decode_notice(message.head);
  if (!notice || notice->culprit < -1 || notice->culprit >= group_.size()) {
    GEARSHIFT_LOG_AT(kWarn, "membership", "ignored a notice from rank " << message.from.value);
    return;
  }
  const int from = message.from.value;
  if (from == own_) return take_own(*notice);
  if (from < 0 || from >= group_.size()) return;
  const std::uint32_t sequence = message.tag.sequence();
  if (notice->kind == NoticeKind::kFailure) return take_failure(from, sequence, *notice);
  if (notice->kind != NoticeKind::kLeaving) return;
  std::lock_guard<base::Monitor> lock(*monitor_);
  peers_.heard(from, sequence, notice->progress, scheduler_.now());
  peers_.left(from);
  monitor_->notify_all();
}

void GroupMonitor::take_own(const Notice& notice) {
  const std::string who = "rank " + std::to_string(notice.culprit);
  if (notice.kind == NoticeKind::kLost && notice.culprit >= 0) {
    std::lock_guard<base::Monitor> lock(*monitor_);
    // Who has announced to leave may end its connections in any way.
    if (!peers_.awaited(notice.culprit)) return;
    if (!ending_) {
      const bool told = notice.what.rfind(who + " died", 0) == 0;
      // A link may also break because its peer, alive, has been standing still in a message.
      const bool stuck = notice.code == ErrorCode::kTimeout;
      const std::string fate = stuck ? " did not send or take a message in time (" : " died (";
      ending_ = {ErrorCode::kPeerLost, notice.culprit,
                 told ? notice.what : who + fate + notice.what + ")"};
    } else if (!informed_[static_cast<std::size_t>(notice.culprit)]) {
      // Whoever has sent its own account breaks its links because of it, and is no victim.
      peers_.lost(notice.culprit);
    }
  } else if (notice.kind == NoticeKind::kFail && !ending_) {
    own_error_ = Error(notice.code, notice.what, notice.culprit < 0 ? own_ : notice.culprit);
    const bool blames_other =
        notice.code == ErrorCode::kPeerLost && notice.culprit >= 0 && notice.culprit != own_;
    if (blames_other) {
      ending_ = {ErrorCode::kPeerLost, notice.culprit, who + " is lost (" + notice.what + ")"};
      return;
    }
    const bool telling = notice.code == ErrorCode::kDiverged || notice.code == ErrorCode::kMismatch;
    ending_ = {telling ? notice.code : ErrorCode::kAborted, own_,
               "rank " + std::to_string(own_) + " reported " + base::to_string(notice.code) + ": " +
                   notice.what};
  }
}

void GroupMonitor::take_failure(int from, std::uint32_t sequence, const Notice& notice) {
  informed_[static_cast<std::size_t>(from)] = true;
  if (!ending_) ending_ = {notice.code, notice.culprit, notice.what};
  std::lock_guard<base::Monitor> lock(*monitor_);
  peers_.heard(from, sequence, notice.progress, scheduler_.now());
}

void GroupMonitor::say_leaving() {
  Notice notice;
  notice.kind = NoticeKind::kLeaving;
  notice.progress = own_progress();
  const std::vector<std::byte> head = encode(notice);
  for (int r = 0; r < group_.size(); ++r) {
    if (r != own_) send(r, kAbortService, head);
  }
}

/// Every rank that learns of the end tells all others before it breaks its links. So nobody sees
/// a link break without having been told why, even when the first messenger dies half-way; and
/// since a notice from a peer proves that this peer knows, no other acknowledgement is needed.
void GroupMonitor::end_group() {
  ended_at_ = scheduler_.now();
  {
    std::lock_guard<base::Monitor> lock(*monitor_);
    if (ending_->code == ErrorCode::kPeerLost && ending_->culprit != own_) {
      peers_.lost(ending_->culprit);
    }
  }
  Notice notice;
  notice.kind = NoticeKind::kFailure;
  notice.code = ending_->code;
  notice.culprit = ending_->culprit;
  notice.what = ending_->what;
  notice.progress = own_progress_at_end();
  const std::vector<std::byte> head = encode(notice);
  for (int r = 0; r < group_.size(); ++r) {
    if (r != own_) send(r, kAbortService, head);
  }
  await_others();

  const Error error = account(*ending_);
  {
    std::lock_guard<base::Monitor> lock(*monitor_);
    failure_ = error;
    monitor_->notify_all();
  }
  group_.abort(error);
}

bool GroupMonitor::others_informed() const {
  std::lock_guard<base::Monitor> lock(*monitor_);
  for (int r = 0; r < group_.size(); ++r) {
    if (peers_.awaited(r) && !informed_[static_cast<std::size_t>(r)]) return false;
  }
  return true;
}

void GroupMonitor::await_others() {
  const base::TimePoint deadline = scheduler_.after(farewell_);
  while (!others_informed()) {
    auto message = news_->pop(deadline);
    if (!message) return;
    take(*message);
  }
}

Error GroupMonitor::account(const Ending& ending) const {
  const ProgressNote own = own_progress_at_end();
  std::lock_guard<base::Monitor> lock(*monitor_);
  const std::string report = "\n" + peers_.report_text(own, scheduler_.now());
  if (own_error_) return {own_error_->code, own_error_->message + report, own_error_->culprit};

  const std::string self = "; this rank " + std::to_string(own_) + " was " + own.phrase() + report;
  if (ending.culprit == own_) {
    return {ErrorCode::kAborted, "the other ranks gave up on this one: " + ending.what + self,
            own_};
  }
  if (ending.culprit < 0) return {ending.code, ending.what + self};
  const std::string comma = ending.code == ErrorCode::kPeerLost ? " " : ", ";
  return {ending.code, ending.what + comma + peers_.last_known(ending.culprit) + self,
          ending.culprit};
}

/// Whether an error may be the echo of a failure elsewhere.
bool may_be_echo(ErrorCode code) {
  return code == ErrorCode::kPeerLost || code == ErrorCode::kTimeout ||
         code == ErrorCode::kClosed || code == ErrorCode::kAborted || code == ErrorCode::kIo;
}

Error GroupMonitor::explain(const Error& error) const {
  if (!may_be_echo(error.code)) return error;
  const ProgressNote own = own_progress();
  const base::TimePoint deadline = scheduler_.after(timeout_ / 4);
  std::lock_guard<base::Monitor> lock(*monitor_);
  const auto finished = [this, &error] {
    const bool ended = error.code == ErrorCode::kClosed || error.code == ErrorCode::kPeerLost;
    return ended && error.culprit >= 0 && error.culprit < group_.size() &&
           peers_.state(error.culprit) == PeerState::kLeft;
  };
  while (!failure_ && !watch_ended_ && !finished() && monitor_->wait_until(deadline)) {
  }
  if (failure_) {
    // The operation's own words may hold the account already, with more context around it.
    if (error.message.find(failure_->message) != std::string::npos) {
      return {failure_->code, error.message, failure_->culprit};
    }
    return *failure_;
  }
  const std::string report = "\n" + peers_.report_text(own, scheduler_.now());
  if (finished() ||
      (error.code == ErrorCode::kClosed && error.culprit >= 0 && error.culprit != own_)) {
    return {error.code,
            "rank " + std::to_string(error.culprit) + " has already finished; this rank " +
                std::to_string(own_) + " was " + own.phrase() + " and still needs it (" +
                error.message +
                "). Ranks that have different numbers of batches must join: gst.join in Python, "
                "Replica::join in C++" +
                report,
            error.culprit};
  }
  if (error.code != ErrorCode::kTimeout && error.code != ErrorCode::kPeerLost) return error;
  return {error.code, error.message + report, error.culprit};
}

void GroupMonitor::stop() {
  {
    std::lock_guard<base::Monitor> lock(*monitor_);
    if (stopping_) {
      while (!stopped_) monitor_->wait_until(base::TimePoint::never());
      return;
    }
    stopping_ = true;
  }
  group_.router().on_lost(nullptr);
  tell_self({});
  group_.router().deliver(
      {base::Rank(own_), transport::Tag(kHeartbeatService, 0, 0), {}, base::Buffer()});
  if (watch_task_) watch_task_->join();
  if (hear_task_) hear_task_->join();
  std::lock_guard<base::Monitor> lock(*monitor_);
  stopped_ = true;
  monitor_->notify_all();
}

}  // namespace

std::unique_ptr<Monitor> Monitor::start(const group::Group& group) {
  return std::make_unique<GroupMonitor>(group);
}

}  // namespace gearshift::membership
