#include "gearshift/ps/shard.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <mutex>
#include <utility>

#include "gearshift/base/log.h"
#include "gearshift/base/threads.h"
#include "gearshift/kernels/half.h"
#include "ps/layout_check.h"
#include "ps/links.h"
#include "ps/shard_impl.h"

namespace gearshift::ps {
namespace {

using base::Error;
using base::ErrorCode;

std::uint64_t next_id() {
  static std::atomic<std::uint64_t> last{0};
  return ++last;
}

/// No connection delivers from this rank: a message that the shard sends itself, a Note.
constexpr base::Rank kNobody{-1};

bool is_half(const Slice& slice, std::size_t bytes) {
  return slice.dtype == base::DType::kF32 && 2 * bytes == slice.bytes;
}

struct Note {
  std::uint64_t shard = 0;  ///< or one that was here before
  std::int64_t what = 0;    ///< kStop, or the worker to whom an answer has left
};
constexpr int kStop = -1;

transport::Message make_note(std::uint16_t model, const Note& note) {
  transport::Message message;
  message.from = kNobody;
  message.tag = request_tag(model);
  const base::ConstBytes bytes = base::bytes_of(note);
  message.head.assign(bytes.begin(), bytes.end());
  return message;
}

Error protocol(const std::string& what) { return {ErrorCode::kProtocol, what}; }

base::Status check_options(const group::Group& group, const group::Group& shards,
                           const ShardOptions& options,
                           const std::vector<base::ConstBytes>& parameters) {
  GEARSHIFT_RETURN_IF_ERROR(check_loopback(group));
  GEARSHIFT_RETURN_IF_ERROR(options.consistency.validate());
  GEARSHIFT_RETURN_IF_ERROR(check_slices(options.slices, options.optimizer.param_groups));
  if (options.workers < 1 || options.workers > group.size()) {
    return Error(
        ErrorCode::kInvalidArgument,
        std::to_string(options.workers) + " workers in a group of " + std::to_string(group.size()));
  }
  if (options.clip_norm > 0 && !options.consistency.is_synchronous()) {
    return Error(ErrorCode::kInvalidArgument,
                 "clip_norm needs BSP: under " + options.consistency.to_string() +
                     " each worker clips its own gradient (Commit::gradient_factor)");
  }
  if (options.clip_norm > 0 && options.index >= shards.size()) {
    return Error(ErrorCode::kInvalidArgument,
                 "shard " + std::to_string(options.index) + " is not in the group of shards");
  }
  if (parameters.size() != options.slices.size()) {
    return Error(ErrorCode::kInvalidArgument,
                 std::to_string(parameters.size()) + " initial values for " +
                     std::to_string(options.slices.size()) + " slices");
  }
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    if (parameters[i].size() != options.slices[i].bytes) {
      return Error(ErrorCode::kInvalidArgument, "slice " + std::to_string(i) + " has " +
                                                    std::to_string(options.slices[i].bytes) +
                                                    " bytes, its initial value " +
                                                    std::to_string(parameters[i].size()));
    }
  }
  return {};
}

/// Whose sums overflow where their mean would not.
bool has_narrow_floats(const std::vector<Slice>& slices) {
  return std::any_of(slices.begin(), slices.end(),
                     [](const Slice& s) { return s.dtype == base::DType::kF16; });
}

/// Nothing when all are answered at the same time.
std::optional<Turns> turns_for(const Rules& rules, const ShardOptions& options) {
  const bool few = options.at_once > 0 && options.at_once < options.workers;
  if (!few || rules.one_of_each) return std::nullopt;
  const std::size_t answers = static_cast<std::size_t>(options.workers) * options.slices.size();
  return std::make_optional<Turns>(options.workers, AtOnce(options.at_once, answers));
}

}  // namespace

Rules rules_of(const Consistency& c) {
  switch (c.kind) {
    case Consistency::Kind::kBsp:
      return {.one_of_each = true, .guards = false};
    case Consistency::Kind::kSsp:
      return {.bound = c.bound};
    case Consistency::Kind::kAsp:
      return {};
    case Consistency::Kind::kBuffered:
      break;
  }
  return {.gradients = c.buffer, .bound = c.bound};
}

base::Result<std::unique_ptr<Shard>> Shard::start(group::Group group, group::Group shards,
                                                  ShardOptions options,
                                                  const std::vector<base::ConstBytes>& parameters,
                                                  std::unique_ptr<Optimizer> optimizer,
                                                  std::int64_t first_step) {
  const std::string who = "shard " + std::to_string(options.index);
  if (auto ok = check_options(group, shards, options, parameters); !ok) {
    return ok.error().within(who);
  }
  if (!optimizer) return Error(ErrorCode::kInvalidArgument, who + " has no optimizer");
  auto shard = std::make_unique<ShardImpl>(std::move(group), std::move(shards), std::move(options),
                                           parameters, std::move(optimizer), first_step);
  shard->launch();
  return std::unique_ptr<Shard>(std::move(shard));
}

ShardImpl::ShardImpl(group::Group group, group::Group shards, ShardOptions options,
                     const std::vector<base::ConstBytes>& parameters,
                     std::unique_ptr<Optimizer> optimizer, std::int64_t first_step)
    : id_(next_id()),
      group_(std::move(group)),
      shards_(std::move(shards)),
      options_(std::move(options)),
      rules_(rules_of(options_.consistency)),
      mailbox_(group_.router().mailbox(request_tag(options_.model).channel())),
      lent_(links_that_share(group_, options_.workers), bytes_of_all(options_.slices)),
      parameters_(parameters, [this](std::size_t size) { return lent_.allocate(size); }),
      optimizer_(std::move(optimizer)),
      outbox_(options_.slices.size()),
      turns_(turns_for(rules_, options_)),
      workers_(static_cast<std::size_t>(options_.workers)),
      highest_step_(first_step),
      divergence_(options_.divergence_factor),
      sum_(options_.slices),
      averages_as_it_goes_(rules_.gradients > 1 && has_narrow_floats(options_.slices)),
      stop_monitor_(group_.scheduler().make_monitor()),
      stats_monitor_(group_.scheduler().make_monitor()) {
  for (Worker& w : workers_) {
    w.step = first_step;
    w.staged.resize(options_.slices.size());
  }
  for (int r = 0; r < group_.size(); ++r) {
    const auto peer = static_cast<std::size_t>(link_to(group_, base::Rank(r)).peer().value);
    if (rank_of_peer_.size() <= peer) rank_of_peer_.resize(peer + 1, -1);
    rank_of_peer_[peer] = r;
  }
}

ShardImpl::~ShardImpl() { stop(); }

void ShardImpl::launch() {
  forget_old_gradients();
  task_ = base::spawn_patiently(group_.scheduler(), "shard " + std::to_string(options_.index),
                                [this] { run(); });
}

/// Of an earlier shard, which a link with several streams brought when it had stopped. Workers push
/// only when every shard has been started; parameters and state may come before.
void ShardImpl::forget_old_gradients() {
  std::vector<transport::Message> early;
  while (auto message = mailbox_->try_pop()) early.push_back(std::move(*message));
  for (transport::Message& message : early) {
    const auto head = decode_head({message.head.data(), message.head.size()});
    const bool old = message.from != kNobody && head && head->kind == Kind::kStage;
    if (!old) mailbox_->push(std::move(message));
  }
}

void ShardImpl::stop() {
  std::lock_guard<base::Monitor> lock(*stop_monitor_);
  if (!std::exchange(stopping_, true)) {
    // The mailbox stays open, since a later shard of this model listens on the same one.
    mailbox_->push(make_note(options_.model, {id_, kStop}));
  }
  if (task_) task_->join();
}

ShardStats ShardImpl::stats() const {
  std::lock_guard<base::Monitor> lock(*stats_monitor_);
  return stats_;
}

void ShardImpl::run() {
  bool failed = false;
  while (true) {
    const bool waits = turns_ && turns_->waiting();
    auto message = mailbox_->pop(waits ? group_.scheduler().after(turns_->patience())
                                       : base::TimePoint::never());
    if (!message && message.error().code == ErrorCode::kTimeout) {
      send_in_turn();
      continue;
    }
    if (!message) break;
    if (message->from == kNobody) {
      Note note;
      std::memcpy(&note, message->head.data(), sizeof(note));
      if (note.shard != id_) continue;  // meant for a shard that ended before it read this
      if (note.what == kStop) break;
      if (turns_) turns_->left(static_cast<int>(note.what), group_.scheduler().now());
      send_in_turn();
      continue;
    }
    // A shard that failed answers nobody, but takes what comes: bodies may be lent.
    if (failed) continue;
    if (auto handled = handle(std::move(*message)); !handled) {
      fail(handled.error());
      failed = true;
      turns_.reset();
      for (Worker& w : workers_) w.drop_gradients();
    }
  }
  while (turns_) {
    const auto answer = turns_->any();
    if (!answer) break;
    static_cast<void>(send_slice(*answer));
  }
  outbox_.drain(group_.deadline());
}

void ShardImpl::fail(const Error& error) {
  const Error named = error.within("shard " + std::to_string(options_.index));
  GEARSHIFT_LOG_AT(kError, "ps", named.message);
  if (options_.on_failure) options_.on_failure(named);
}

base::Status ShardImpl::handle(transport::Message message) {
  const auto peer = static_cast<std::size_t>(message.from.value);
  const int from = peer < rank_of_peer_.size() ? rank_of_peer_[peer] : -1;
  if (from < 0) {
    return protocol("a request from rank " + std::to_string(message.from.value) +
                    ", which is not of the group");
  }
  const auto named = [&](const Error& error) {
    return Error(error.code, "request from rank " + std::to_string(from) + ": " + error.message,
                 message.from.value);
  };
  auto head = decode_head({message.head.data(), message.head.size()});
  if (!head) return named(head.error());
  Request request{from, *head, std::move(message.body)};
  base::Status handled = dispatch(request);
  if (!handled && handled.error().code == ErrorCode::kProtocol) return named(handled.error());
  return handled;
}

base::Status ShardImpl::dispatch(Request& request) {
  switch (request.head.kind) {
    case Kind::kStage:
      return stage(request);
    case Kind::kCommit:
      return commit(request);
    case Kind::kPull:
      return pull(request);
    case Kind::kLeave:
      return leave(request);
    case Kind::kEnter:
      return enter(request);
    case Kind::kFlush:
      return flush(request);
    case Kind::kFetchState:
      return fetch_state(request);
    case Kind::kStoreState:
      return store_state(request);
    case Kind::kStateData:
      return store_state_data(request);
    case Kind::kStoreParameters:
      return store_parameters(request);
  }
  return protocol("unknown request");
}

base::Result<Worker*> ShardImpl::worker(const Request& request) {
  if (request.from < options_.workers) return &workers_[static_cast<std::size_t>(request.from)];
  return protocol("it is no worker");
}

base::Status ShardImpl::check_slice(const Request& request) const {
  const std::size_t slice = request.head.slice;
  if (slice >= options_.slices.size()) {
    return protocol("slice " + std::to_string(slice) + " of " +
                    std::to_string(options_.slices.size()));
  }
  return {};
}

/// A gradient came as bfloat16.
void ShardImpl::widen(base::Buffer& body) const {
  const base::ConstBytes half = std::as_const(body).view();
  const std::size_t bytes = 2 * half.size();
  base::Buffer whole = base::is_phantom(half) ? base::Buffer::phantom(bytes) : base::Buffer(bytes);
  kernels::widen(base::DType::kBF16, whole.view(), half);
  worked(base::Work::kCopy, bytes);
  body = std::move(whole);
}

base::Status ShardImpl::stage(Request& request) {
  GEARSHIFT_ASSIGN_OR_RETURN(Worker * w, worker(request));
  GEARSHIFT_RETURN_IF_ERROR(check_slice(request));
  const std::size_t slice = request.head.slice;
  const std::uint64_t attempt = request.head.attempt;
  const bool half = is_half(options_.slices[slice], request.body.size());
  if (!half && request.body.size() != options_.slices[slice].bytes) {
    return protocol("a gradient of " + std::to_string(request.body.size()) + " bytes for slice " +
                    std::to_string(slice) + " of " + std::to_string(options_.slices[slice].bytes));
  }
  Staged& staged = w->staged[slice];
  // Replaced, or of a step that is over: it was overtaken on its way.
  if (attempt <= w->closed_attempt || attempt <= staged.attempt) return {};
  if (half) widen(request.body);
  staged = {attempt, std::move(request.body)};
  if (!w->pending || w->pending->missing == 0) return {};
  const std::uint64_t wanted = w->pending->record.attempts[slice];
  if (attempt > wanted) return protocol("a gradient was staged while its commit was pending");
  if (attempt != wanted) return {};
  --w->pending->missing;
  if (const auto update = w->pending->update) return advance(update, slice);
  return w->ready() ? settle() : base::Status();
}

base::Status ShardImpl::check_commit(const Worker& w, const CommitRecord& r) const {
  if (w.pending) return protocol("a second commit before the first was answered");
  if (!w.active) return protocol("a commit after leaving");
  if (r.step <= w.step) {
    return protocol("commit of step " + std::to_string(r.step) + " after step " +
                    std::to_string(w.step));
  }
  if (r.attempts.size() != options_.slices.size()) return protocol("commit of another layout");
  if (!std::isfinite(r.samples) || r.samples < 0) return protocol("commit of a senseless weight");
  if (r.base_version < 0 || r.base_version > updates_begun()) {
    return protocol("commit on top of version " + std::to_string(r.base_version) + ", newest is " +
                    std::to_string(updates_begun()));
  }
  const OptimizerSpec& spec = options_.optimizer;
  if (r.usable() && r.hypers.size() != spec.hyper_names.size() * spec.param_groups) {
    return protocol("commit with " + std::to_string(r.hypers.size()) + " optimizer settings");
  }
  for (const Slice& slice : options_.slices) {
    for (const Segment& segment : slice.segments) {
      const auto& bits = r.present.bits();
      if (!bits.empty() && segment.parameter >= bits.size()) {
        return protocol("commit for fewer parameters than the model has");
      }
    }
  }
  return {};
}

base::Status ShardImpl::commit(Request& request) {
  GEARSHIFT_ASSIGN_OR_RETURN(Worker * w, worker(request));
  if (base::is_phantom(std::as_const(request.body).view())) return protocol("an empty commit");
  GEARSHIFT_ASSIGN_OR_RETURN(CommitRecord record,
                             decode_commit(std::as_const(request.body).view()));
  GEARSHIFT_RETURN_IF_ERROR(check_commit(*w, record));
  std::size_t missing = 0;
  for (std::size_t i = 0; record.usable() && i < w->staged.size(); ++i) {
    if (record.attempts[i] <= w->closed_attempt || record.attempts[i] < w->staged[i].attempt) {
      return protocol("commit of a gradient that was not staged");
    }
    if (record.attempts[i] > w->staged[i].attempt) ++missing;
  }
  w->pending = PendingCommit{.request = request.head.request, .record = std::move(record)};
  w->pending->missing = missing;
  return may_begin(*w) ? settle() : base::Status();
}

base::Status ShardImpl::pull(Request& request) {
  answer_with_parameters(request.from, request.head.request, {});
  return {};
}

base::Status ShardImpl::leave(Request& request) {
  GEARSHIFT_ASSIGN_OR_RETURN(Worker * w, worker(request));
  if (w->pending) return protocol("it leaves before its commit was answered");
  w->active = false;
  answer(request.from, request.head.request, {});
  return settle();
}

base::Status ShardImpl::enter(Request& request) {
  GEARSHIFT_ASSIGN_OR_RETURN(Worker * w, worker(request));
  if (w->pending) return protocol("it enters before its commit was answered");
  if (request.head.step < 0) return protocol("it enters at a negative step");
  // All have joined: epochs before the furthest are over, also for a worker without any batch.
  for (const Worker& other : workers_) w->epoch = std::max(w->epoch, other.epoch);
  w->active = true;
  w->step = request.head.step;
  answer(request.from, request.head.request, {});
  return {};
}

base::Status ShardImpl::flush(Request& request) {
  GEARSHIFT_RETURN_IF_ERROR(apply_gathered());
  answer(request.from, request.head.request, {});
  return {};
}

void ShardImpl::answer(int to, std::uint32_t request, const ReplyWire& reply) {
  ReplyWire full = reply;
  if (full.version == 0) full.version = version_;
  full.loss = mean_loss_;
  full.leave_after = leave_after_;
  outbox_.send(link_to(group_, base::Rank(to)), reply_tag(options_.model, request, kReplyPart),
               std::make_shared<base::Buffer>(base::Buffer::copy_of(base::bytes_of(full))));
}

void ShardImpl::answer_slice(int to, std::uint32_t request, std::size_t slice) {
  const Turns::Answer answer{to, request, slice};
  if (!turns_) {
    static_cast<void>(send_slice(answer));
    return;
  }
  turns_->add(answer);
  send_in_turn();
}

transport::Request ShardImpl::send_slice(const Turns::Answer& answer) {
  const auto part = static_cast<std::uint16_t>(answer.slice);
  return outbox_.send_slice(link_to(group_, base::Rank(answer.worker)),
                            reply_tag(options_.model, answer.request, part), answer.slice,
                            parameters_.snapshot(answer.slice));
}

/// Sends what may go now; a note comes when it has left.
void ShardImpl::send_in_turn() {
  if (!turns_) return;
  while (const auto answer = turns_->next(group_.scheduler().now())) {
    const bool told = send_slice(*answer).when_done(
        [mailbox = mailbox_, model = options_.model, left = Note{id_, answer->worker}] {
          mailbox->push(make_note(model, left));
        });
    if (!told) turns_->left(answer->worker, group_.scheduler().now());
  }
}

void ShardImpl::answer_with_parameters(int to, std::uint32_t request, const ReplyWire& reply) {
  for (std::size_t i = 0; i < options_.slices.size(); ++i) answer_slice(to, request, i);
  answer(to, request, reply);
}

}  // namespace gearshift::ps
