#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>
#include <sstream>
#include <utility>

#include "gearshift/base/log.h"
#include "gearshift/collectives/collectives.h"
#include "ps/layout_check.h"
#include "ps/shard_impl.h"

namespace gearshift::ps {

using base::Error;
using base::ErrorCode;

/// Goes on as far as possible after a gradient or a commit came, or a worker left.
base::Status ShardImpl::settle() {
  if (rules_.one_of_each) {
    GEARSHIFT_RETURN_IF_ERROR(settle_together());
  } else {
    for (int r = 0; r < options_.workers; ++r) {
      if (may_begin(workers_[static_cast<std::size_t>(r)])) GEARSHIFT_RETURN_IF_ERROR(accept(r));
    }
  }
  answer_due();
  return {};
}

base::Status ShardImpl::settle_together() {
  std::vector<int> ranks;
  for (int r = 0; r < options_.workers; ++r) {
    const Worker& w = workers_[static_cast<std::size_t>(r)];
    if (!w.active) continue;
    if (!may_begin(w)) return {};
    ranks.push_back(r);
  }
  return ranks.empty() ? base::Status() : accept_all(ranks);
}

/// The norm to clip to is that of the average, so all workers must ask for the same.
std::optional<Error> ShardImpl::clipped_otherwise(int first, int rank) const {
  const auto limit = [this](int r) {
    return workers_[static_cast<std::size_t>(r)].pending->record.clip_norm;
  };
  if (limit(first) == limit(rank)) return std::nullopt;
  const auto wish = [&limit](int r) {
    std::ostringstream text;
    text << "worker " << r << (limit(r) > 0 ? " asks for it to be clipped to " : " does not");
    if (limit(r) > 0) text << limit(r);
    return text.str();
  };
  return Error(ErrorCode::kMismatch,
               "workers disagree on clipping the averaged gradient of step " +
                   std::to_string(workers_[static_cast<std::size_t>(rank)].pending->record.step) +
                   ": " + wish(first) + ", " + wish(rank) +
                   "; under BSP clip in every worker or in none, whatever its own gradient's norm",
               rank);
}

/// One update is made with one set of numbers.
std::optional<Error> ShardImpl::set_otherwise(int first, int rank) const {
  const auto numbers = [this](int r) -> const HyperValues& {
    return workers_[static_cast<std::size_t>(r)].pending->record.hypers;
  };
  const auto same = [](double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); };
  const HyperValues& ones = numbers(first);
  const HyperValues& others = numbers(rank);
  const auto [one, other] = std::mismatch(ones.begin(), ones.end(), others.begin(), same);
  if (one == ones.end()) return std::nullopt;
  const std::vector<std::string>& names = options_.optimizer.hyper_names;
  const auto at = static_cast<std::size_t>(one - ones.begin());
  std::ostringstream text;
  text
      << "workers disagree on the optimizer settings of step "
      << workers_[static_cast<std::size_t>(rank)].pending->record.step << ": in param group "
      << at / names.size() << " worker " << first << " has " << names[at % names.size()] << ' '
      << *one << ", worker " << rank << " has " << *other
      << "; under BSP every worker must set the same: from steps or epochs that all have made, not "
         "from batches that only one has seen";
  return Error(ErrorCode::kMismatch, text.str(), rank);
}

/// One synchronous update. Every shard sees the same commits and so comes to the same verdict.
base::Status ShardImpl::accept_all(const std::vector<int>& ranks) {
  const auto pending = [this](int r) -> PendingCommit& {
    return *workers_[static_cast<std::size_t>(r)].pending;
  };
  double samples = 0;
  bool skip = false;
  for (const int r : ranks) {
    const CommitRecord& record = pending(r).record;
    if (record.step != pending(ranks[0]).record.step) {
      return Error(ErrorCode::kMismatch, "worker " + std::to_string(r) + " commits step " +
                                             std::to_string(record.step) + ", worker " +
                                             std::to_string(ranks[0]) + " step " +
                                             std::to_string(pending(ranks[0]).record.step));
    }
    if (auto wrong = clipped_otherwise(ranks[0], r)) return *wrong;
    samples += record.samples;
    skip = skip || record.skip;
  }
  StreamedUpdate update{.ranks = ranks};
  for (const int r : ranks) {
    const CommitRecord& record = pending(r).record;
    pending(r).staleness = updates_begun() - record.base_version;
    if (skip || !record.usable()) continue;
    if (update.shares.empty()) update.hypers = record.hypers;
    if (auto wrong = set_otherwise(update.shares.empty() ? r : update.shares[0].rank, r)) {
      return *wrong;
    }
    update.shares.push_back({r, record.gradient_factor * (record.samples / samples)});
  }
  const bool any = !update.shares.empty();
  for (const int r : ranks) pending(r).skipped = !any;
  if (any && streams(pending(update.shares[0].rank).record)) return begin_stream(std::move(update));
  if (any) GEARSHIFT_RETURN_IF_ERROR(apply_whole(update));
  close_commits(ranks);
  return {};
}

/// All slices at once: what needs all of them, such as the norm of the gradient.
base::Status ShardImpl::apply_whole(const StreamedUpdate& together) {
  for (std::size_t i = 0; i < options_.slices.size(); ++i) combine(together, i);
  const CommitRecord& first =
      workers_[static_cast<std::size_t>(together.shares[0].rank)].pending->record;
  return update(together.hypers, first.clip_norm > 0 ? first.clip_norm : options_.clip_norm);
}

/// One commit of a server that does not wait for the others.
base::Status ShardImpl::accept(int rank) {
  PendingCommit& pending = *workers_[static_cast<std::size_t>(rank)].pending;
  const CommitRecord& record = pending.record;
  pending.staleness = updates_begun() - record.base_version;
  pending.skipped = !record.usable();
  if (!pending.skipped && streams(record)) {
    return begin_stream(
        {.shares = {{rank, record.gradient_factor}}, .ranks = {rank}, .hypers = record.hypers});
  }
  if (!pending.skipped) GEARSHIFT_RETURN_IF_ERROR(take_in(rank));
  if (!record.skip) {
    GEARSHIFT_RETURN_IF_ERROR(judge_loss(rank, record.loss));
  }
  close_commits({rank});
  return {};
}

base::Status ShardImpl::take_in(int rank) {
  Worker& w = workers_[static_cast<std::size_t>(rank)];
  const CommitRecord& record = w.pending->record;
  std::vector<base::Buffer> gradient = w.take_gradient();
  GEARSHIFT_RETURN_IF_ERROR(check_finite(rank, gradient));
  choose_weight_unit(record.samples);
  worked(base::Work::kCombine, sum_.add(std::move(gradient), record.present,
                                        record.gradient_factor * (record.samples / weight_unit_)));
  gathered_samples_ += record.samples;
  gathered_hypers_ = record.hypers;
  if (++gathered_ < rules_.gradients) {
    sum_.keep();  // the worker is answered now, and goes on to its next gradient
    return {};
  }
  return apply_gathered();
}

/// Before a gradient of so many samples is added: what weighs 1 in the sum. The first one does, or,
/// where sums may overflow, as many of the largest as will be added.
void ShardImpl::choose_weight_unit(double samples) {
  most_samples_ = std::max(most_samples_, samples);
  const double narrow = rules_.gradients * most_samples_;
  if (gathered_ == 0) {
    weight_unit_ = averages_as_it_goes_ ? narrow : samples;
  } else if (averages_as_it_goes_ && narrow > weight_unit_) {
    sum_.scale(weight_unit_ / narrow);
    weight_unit_ = narrow;
  }
}

base::Status ShardImpl::check_finite(int rank, const std::vector<base::Buffer>& gradient) const {
  const CommitRecord& record = workers_[static_cast<std::size_t>(rank)].pending->record;
  if (std::isfinite(record.gradient_factor) &&
      norm_of(options_.slices, gradient, record.present).all_finite) {
    return {};
  }
  return diverged(rank, "the gradient is not finite");
}

base::Status ShardImpl::check_finite(int rank, std::size_t slice, base::ConstBytes gradient) const {
  const CommitRecord& record = workers_[static_cast<std::size_t>(rank)].pending->record;
  if (std::isfinite(record.gradient_factor) &&
      norm_of(options_.slices[slice], gradient, record.present).all_finite) {
    return {};
  }
  return diverged(rank, "the gradient is not finite");
}

base::Status ShardImpl::apply_gathered() {
  if (gathered_ == 0) return {};
  sum_.scale(weight_unit_ / gathered_samples_);
  gathered_ = 0;
  gathered_samples_ = 0;
  return update(gathered_hypers_, 0);
}

base::Status ShardImpl::update(const HyperValues& hypers, double clip_norm) {
  if (clip_norm > 0) {
    GEARSHIFT_ASSIGN_OR_RETURN(const double factor, clip_factor(clip_norm));
    sum_.scale(factor);
  }
  outbox_.reap();
  std::vector<SegmentUpdate> updates;
  for (std::uint32_t i = 0; i < options_.slices.size(); ++i) collect(i, updates);
  GEARSHIFT_RETURN_IF_ERROR(apply(updates, hypers));
  sum_.clear();
  count_update();
  return {};
}

base::Status ShardImpl::apply(const std::vector<SegmentUpdate>& updates,
                              const HyperValues& hypers) {
  GEARSHIFT_RETURN_IF_ERROR(optimizer_->apply(updates, hypers, options_.lr_factor));
  std::size_t bytes = 0;
  for (const SegmentUpdate& u : updates) bytes += u.parameter.size();
  worked(base::Work::kUpdate, bytes);
  return {};
}

/// What a slice's sum updates.
void ShardImpl::collect(std::uint32_t slice, std::vector<SegmentUpdate>& updates) {
  const Slice& layout = options_.slices[slice];
  std::optional<base::Bytes> memory;
  for (std::uint32_t s = 0; s < layout.segments.size(); ++s) {
    if (!sum_.has(slice, s)) continue;
    if (!memory) {
      if (parameters_.is_lent(slice)) worked(base::Work::kCopy, layout.bytes);
      memory = parameters_.writable(slice);
    }
    updates.push_back(
        {slice, s, segment_of(layout, layout.segments[s], *memory), sum_.segment(slice, s)});
  }
}

void ShardImpl::count_update() {
  ++version_;
  std::lock_guard<base::Monitor> lock(*stats_monitor_);
  stats_.applies = version_;
}

/// As torch.nn.utils.clip_grad_norm_ over the parameters of all shards.
base::Result<double> ShardImpl::clip_factor(double clip_norm) {
  double squares = sum_.norm().sum_of_squares;
  if (shards_.size() > 1) {
    collectives::Options options;
    options.label = "norm of the gradient across shards";
    GEARSHIFT_RETURN_IF_ERROR(collectives::all_reduce(shards_, base::writable_bytes_of(squares),
                                                      base::DType::kF64, base::ReduceOp::kSum,
                                                      options));
  }
  const double factor = clip_norm / (std::sqrt(squares) + 1e-6);
  return factor > 1 ? 1 : factor;  // a NaN passes, as in torch
}

/// The commits of one update are accepted.
void ShardImpl::close_commits(const std::vector<int>& ranks) {
  for (const int r : ranks) count(r);
  note_losses(ranks);
  for (const int r : ranks) announce(r);
}

/// Into the statistics, and the commit's gradients are over.
void ShardImpl::count(int rank) {
  Worker& w = workers_[static_cast<std::size_t>(rank)];
  w.pending->accepted = true;
  ++due_;
  w.step = w.pending->record.step;
  w.close_attempts();
  highest_step_ = std::max(highest_step_, w.step);

  std::lock_guard<base::Monitor> lock(*stats_monitor_);
  const std::int64_t staleness = w.pending->staleness;
  ++stats_.commits;
  staleness_sum_ += static_cast<double>(staleness);
  stats_.mean_staleness = staleness_sum_ / static_cast<double>(stats_.commits);
  stats_.max_staleness = std::max(stats_.max_staleness, staleness);
}

/// The mean over all workers: of one step, or of the latest losses where steps differ.
void ShardImpl::note_losses(const std::vector<int>& ranks) {
  for (const int r : ranks) {
    Worker& w = workers_[static_cast<std::size_t>(r)];
    const CommitRecord& record = w.pending->record;
    if (!std::isnan(record.loss) && record.samples > 0) {
      w.loss = record.loss;
      w.loss_samples = record.samples;
    } else if (rules_.one_of_each) {
      w.loss_samples = 0;
    }
  }
  double sum = 0;
  double samples = 0;
  for (const Worker& w : workers_) {
    if (!w.active || w.loss_samples == 0) continue;
    sum += w.loss * w.loss_samples;
    samples += w.loss_samples;
  }
  if (samples > 0) {
    mean_loss_ = std::isfinite(sum) ? sum / samples : std::numeric_limits<double>::quiet_NaN();
  }
}

void ShardImpl::announce(int rank) {
  Worker& worker = workers_[static_cast<std::size_t>(rank)];
  const PendingCommit& pending = *worker.pending;
  const CommitRecord& r = pending.record;
  worker.epoch = r.epoch;
  if (!options_.on_commit) return;
  std::int64_t earliest = r.epoch;
  for (const Worker& w : workers_) {
    if (w.active) earliest = std::min(earliest, w.epoch);
  }
  const auto leave_after = options_.on_commit({rank, r.step, r.loss, r.samples, mean_loss_, r.epoch,
                                               pending.staleness, highest_step_, earliest});
  // The first word counts: workers may have acted on it.
  if (leave_after && leave_after_ == 0) leave_after_ = *leave_after;
}

/// Answers the accepted commits whose workers may go on.
void ShardImpl::answer_due() {
  if (due_ == 0) return;  // nearly always: no need to look at all workers
  const std::int64_t slowest = slowest_step();
  for (int r = 0; r < options_.workers; ++r) {
    Worker& w = workers_[static_cast<std::size_t>(r)];
    if (!w.pending || !w.pending->accepted) continue;
    const std::int64_t lead = w.step - slowest;
    if (rules_.bound >= 0 && lead > rules_.bound) continue;
    {
      std::lock_guard<base::Monitor> lock(*stats_monitor_);
      stats_.max_lead = std::max(stats_.max_lead, lead);
    }
    ReplyWire reply;
    reply.version = w.pending->version;
    reply.staleness = w.pending->staleness;
    reply.skipped = w.pending->skipped ? 1 : 0;
    const std::int64_t known = w.pending->answers_slices ? w.pending->slowest : slowest;
    reply.bytes_or_lead = static_cast<std::uint32_t>(
        std::min<std::int64_t>(w.step - known, std::numeric_limits<std::uint32_t>::max()));
    const PendingCommit answered = *std::exchange(w.pending, std::nullopt);
    --due_;
    if (answered.answers_slices) {
      answer(r, answered.request, reply);
    } else {
      answer_with_parameters(r, answered.request, reply);
    }
  }
}

/// Steps that every active worker has made, `but` one.
std::int64_t ShardImpl::slowest_step(int but) const {
  std::int64_t slowest = std::numeric_limits<std::int64_t>::max();
  for (int r = 0; r < options_.workers; ++r) {
    const Worker& w = workers_[static_cast<std::size_t>(r)];
    if (w.active && r != but) slowest = std::min(slowest, w.step);
  }
  return slowest;
}

base::Status ShardImpl::judge_loss(int rank, double loss) {
  if (const auto wrong = divergence_.note(loss)) {
    return diverged(rank, *wrong);
  }
  const auto lost = divergence_.collapse();
  if (lost && options_.index == 0) {
    GEARSHIFT_LOG_AT(kWarn, "ps", "training forgets: " << what_happened(rank, *lost));
  }
  return {};
}

Error ShardImpl::diverged(int rank, const std::string& what) const {
  return {ErrorCode::kDiverged, "training diverged: " + what_happened(rank, what), rank};
}

std::string ShardImpl::what_happened(int rank, const std::string& what) const {
  const PendingCommit& pending = *workers_[static_cast<std::size_t>(rank)].pending;
  const auto& names = options_.optimizer.hyper_names;
  const auto lr = std::find(names.begin(), names.end(), "lr") - names.begin();
  std::ostringstream text;
  text << what << " (worker " << rank << ", step " << pending.record.step << ", staleness "
       << pending.staleness;
  if (static_cast<std::size_t>(lr) < pending.record.hypers.size()) {
    text << ", learning rate "
         << pending.record.hypers[static_cast<std::size_t>(lr)] * options_.lr_factor;
  }
  text << "). Under " << options_.consistency.to_string()
       << " gradients may be stale: lower the learning rate or scale it by 1/workers, bound the"
          " staleness with SSP, or average with BSP or a buffered server";
  return text.str();
}

}  // namespace gearshift::ps
