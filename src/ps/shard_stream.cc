#include <algorithm>
#include <utility>

#include "ps/shard_impl.h"

namespace gearshift::ps {

/// Whether the commit's gradients can be applied one slice at a time.
bool ShardImpl::streams(const CommitRecord& record) const {
  const bool clips = rules_.one_of_each && (record.clip_norm > 0 || options_.clip_norm > 0);
  return rules_.gradients == 1 && !clips && optimizer_->takes_parts();
}

/// Whether a worker's commit is enough for an update to begin.
bool ShardImpl::may_begin(const Worker& w) const {
  return w.waits() && (w.pending->missing == 0 || streams(w.pending->record));
}

base::Status ShardImpl::begin_stream(StreamedUpdate made) {
  const auto update = std::make_shared<StreamedUpdate>(std::move(made));
  update->slices_left = options_.slices.size();
  outbox_.reap();
  const std::int64_t slowest = slowest_step();
  ++streams_;
  for (const int r : update->ranks) {
    PendingCommit& pending = *workers_[static_cast<std::size_t>(r)].pending;
    pending.update = update;
    // The slowest can only catch up meanwhile, so what may be answered now may be answered later.
    pending.answers_slices = rules_.bound < 0 || pending.record.step - slowest <= rules_.bound;
    // Updates that are under way with this one count as seen if they began earlier, for of some
    // slices they come first: so each counts once, and staleness is right on average.
    if (pending.answers_slices) pending.version = updates_begun();
    const std::int64_t step = pending.record.step;
    pending.slowest = rules_.one_of_each ? step : std::min(step, slowest_step(r));
  }
  if (options_.slices.empty()) return finish_stream(*update);
  for (std::size_t i = 0; i < options_.slices.size(); ++i) {
    GEARSHIFT_RETURN_IF_ERROR(advance(update, i));
  }
  return {};
}

/// A gradient of the slice came, or the update begins.
base::Status ShardImpl::advance(const std::shared_ptr<StreamedUpdate>& update, std::size_t slice) {
  for (const auto& share : update->shares) {
    if (!workers_[static_cast<std::size_t>(share.rank)].has(slice)) return {};
  }
  GEARSHIFT_RETURN_IF_ERROR(apply_slice(*update, slice));
  // Each shard begins with another worker, so that not all answers take the same link first.
  const std::size_t count = update->ranks.size();
  for (std::size_t n = 1; n <= count; ++n) {
    const int r = update->ranks[(static_cast<std::size_t>(options_.index) + n) % count];
    const PendingCommit& pending = *workers_[static_cast<std::size_t>(r)].pending;
    if (pending.answers_slices) answer_slice(r, pending.request, slice);
  }
  if (--update->slices_left > 0) return {};
  return finish_stream(*update);
}

/// Sums up the gradients of a slice.
void ShardImpl::combine(const StreamedUpdate& update, std::size_t slice) {
  std::vector<GradientSum::Addend> addends;
  for (const auto& [rank, coefficient] : update.shares) {
    Worker& w = workers_[static_cast<std::size_t>(rank)];
    addends.push_back(
        {std::move(w.staged[slice].gradient), &w.pending->record.present, coefficient});
  }
  worked(base::Work::kCombine, sum_.add_all(slice, std::move(addends)));
}

base::Status ShardImpl::apply_slice(const StreamedUpdate& update, std::size_t slice) {
  if (rules_.guards) {
    for (const auto& [rank, coefficient] : update.shares) {
      const Worker& w = workers_[static_cast<std::size_t>(rank)];
      GEARSHIFT_RETURN_IF_ERROR(check_finite(rank, slice, w.staged[slice].gradient.view()));
    }
  }
  combine(update, slice);
  outbox_.reap(slice);
  std::vector<SegmentUpdate> updates;
  collect(static_cast<std::uint32_t>(slice), updates);
  GEARSHIFT_RETURN_IF_ERROR(apply(updates, update.hypers));
  sum_.clear(slice);
  return {};
}

base::Status ShardImpl::finish_stream(const StreamedUpdate& update) {
  --streams_;
  count_update();
  for (const int r : update.ranks) {
    const CommitRecord& record = workers_[static_cast<std::size_t>(r)].pending->record;
    if (!rules_.guards || record.skip) continue;
    GEARSHIFT_RETURN_IF_ERROR(judge_loss(r, record.loss));
  }
  close_commits(update.ranks);
  answer_due();
  return {};
}

}  // namespace gearshift::ps
