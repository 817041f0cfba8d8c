#include "strategy/local_phase.h"

#include <cstring>
#include <utility>

#include "gearshift/kernels/reduce.h"

namespace gearshift::strategy {
namespace {

void copy(base::Bytes to, base::ConstBytes from) {
  if (from.empty() || base::is_phantom(from) || base::is_phantom(to)) return;
  std::memcpy(to.data(), from.data(), from.size());
}

bool same(base::ConstBytes a, base::ConstBytes b) {
  return a.empty() || base::is_phantom(a) || std::memcmp(a.data(), b.data(), a.size()) == 0;
}

const char* const kOuterMomentum = "momentum_buffer";

std::size_t bytes_of_parameter(const ParameterSpec& p) {
  return p.elements() * base::size_of(p.dtype);
}

ps::OptimizerSpec outer_spec() { return {"sgd", {"lr", "momentum", "nesterov"}, 1}; }

ps::HyperValues outer_numbers(const LocalSgd& config) {
  return {config.outer_lr, config.outer_momentum, config.outer_momentum > 0 ? 1.0 : 0.0};
}

}  // namespace

base::Result<std::unique_ptr<LocalPhase>> LocalPhase::begin(base::Scheduler& scheduler,
                                                            const BucketPlan& plan,
                                                            const BucketMemory& memory,
                                                            Options options) {
  std::unique_ptr<LocalPhase> phase(new LocalPhase(scheduler, plan, memory, std::move(options)));
  GEARSHIFT_RETURN_IF_ERROR(phase->prepare());
  return phase;
}

LocalPhase::LocalPhase(base::Scheduler& scheduler, const BucketPlan& plan,
                       const BucketMemory& memory, Options options)
    : scheduler_(scheduler),
      plan_(plan),
      memory_(memory),
      options_(std::move(options)),
      last_round_(options_.step) {}

base::Status LocalPhase::prepare() {
  std::size_t total = 0;
  for (const Bucket& bucket : plan_.buckets) total += bucket.bytes;
  base::Bytes all(static_cast<std::byte*>(nullptr), total);
  if (!options_.phantom && !is_idle() && total > 0) {
    GEARSHIFT_ASSIGN_OR_RETURN(pages_, base::Pages::create(total, base::Pages::InChild::kZeros));
    all = pages_->view();
  }
  std::vector<ps::Slice> slices;
  std::size_t offset = 0;
  for (std::uint32_t b = 0; b < plan_.buckets.size(); ++b) {
    const Bucket& bucket = plan_.buckets[b];
    anchor_.push_back(base::slice(all, offset, bucket.bytes));
    copy(anchor_[b], memory_.parameters(b));
    offset += bucket.bytes;
    // To the outer optimizer a bucket is one parameter.
    const std::size_t elements = bucket.bytes / base::size_of(bucket.dtype);
    slices.push_back({b, bucket.dtype, 0, bucket.bytes, {{b, 0, 0, 0, elements}}});
  }
  GEARSHIFT_ASSIGN_OR_RETURN(outer_, ps::make_native_optimizer(outer_spec(), std::move(slices)));
  return {};
}

void LocalPhase::note_step(double samples, bool left_out) {
  ++steps_;
  samples_ += samples;
  moved_ = moved_ || !left_out;
}

bool LocalPhase::is_due(std::int64_t step) const {
  return step - last_round_ >= options_.config.every || step == options_.last_step;
}

bool LocalPhase::is_plain() const {
  return options_.config.outer_lr == 1 && options_.config.outer_momentum == 0;
}

void LocalPhase::take_parameters() {
  bool written = false;
  for (std::uint32_t b = 0; b < plan_.buckets.size(); ++b) {
    written = written || !same(anchor_[b], memory_.parameters(b));
  }
  if (!written) return;
  taken_ = 1;
  for (std::uint32_t b = 0; b < plan_.buckets.size(); ++b) {
    copy(anchor_[b], memory_.parameters(b));
    taken_ = taken_ * 31 + kernels::hash64(anchor_[b]);
  }
}

base::Result<base::Buffer> LocalPhase::momentum(std::uint32_t bucket) const {
  if (options_.phantom || outer_->tensor_names(bucket, 0).empty()) return base::Buffer();
  base::Buffer whole(plan_.buckets[bucket].bytes);
  GEARSHIFT_RETURN_IF_ERROR(outer_->read_tensor(bucket, 0, kOuterMomentum, whole.view()));
  return whole;
}

base::Result<std::vector<ps::StateEntry>> LocalPhase::state() const {
  std::vector<ps::StateEntry> state(plan_.parameters.size());
  for (std::uint32_t b = 0; b < plan_.buckets.size(); ++b) {
    GEARSHIFT_ASSIGN_OR_RETURN(base::Buffer whole, momentum(b));
    if (whole.view().empty()) continue;
    for (const Bucket::Entry& entry : plan_.buckets[b].entries) {
      const std::uint32_t p = entry.parameter;
      state[p].tensors[kOuterMomentum] = base::Buffer::copy_of(
          base::slice(whole.view(), plan_.offset_of[p], bytes_of_parameter(plan_.parameters[p])));
    }
  }
  return state;
}

base::Status LocalPhase::set_state(const std::vector<ps::StateEntry>& state) {
  if (options_.phantom || options_.config.outer_momentum == 0) return {};
  const std::uint64_t before = hash_of_state();
  outer_->reset();
  for (std::uint32_t b = 0; b < plan_.buckets.size(); ++b) {
    base::Buffer whole(plan_.buckets[b].bytes);
    base::zero(whole.view());
    bool any = false;
    for (const Bucket::Entry& entry : plan_.buckets[b].entries) {
      const std::uint32_t p = entry.parameter;
      const auto found = state[p].tensors.find(kOuterMomentum);
      if (found == state[p].tensors.end()) continue;
      any = true;
      copy(base::slice(whole.view(), plan_.offset_of[p], bytes_of_parameter(plan_.parameters[p])),
           found->second.view());
    }
    if (any) GEARSHIFT_RETURN_IF_ERROR(outer_->write_tensor(b, 0, kOuterMomentum, whole.view()));
  }
  const std::uint64_t after = hash_of_state();
  if (after != before) taken_ = taken_ * 31 + after + 1;
  return {};
}

std::uint64_t LocalPhase::hash_of_state() const {
  std::uint64_t hash = 0;
  for (std::uint32_t b = 0; b < plan_.buckets.size(); ++b) {
    const base::Result<base::Buffer> whole = momentum(b);
    hash = hash * 31 + (whole ? kernels::hash64(whole->view()) : 0);
  }
  return hash;
}

void LocalPhase::take_change(std::uint32_t bucket) {
  const base::Bytes change = memory_.gradients(bucket);
  const base::Bytes parameters = memory_.parameters(bucket);
  copy(change, anchor_[bucket]);
  kernels::add_scaled(plan_.buckets[bucket].dtype, change, parameters, -1);
  copy(parameters, anchor_[bucket]);
  scheduler_.work(base::Work::kCopy, 3 * change.size());
}

base::Status LocalPhase::apply() {
  GEARSHIFT_RETURN_IF_ERROR(make_outer_step());
  std::size_t bytes = 0;
  for (std::uint32_t b = 0; b < plan_.buckets.size(); ++b) {
    bytes += plan_.buckets[b].bytes;
    copy(anchor_[b], memory_.parameters(b));
    base::zero(memory_.gradients(b));  // changes of parameters are no gradients
  }
  scheduler_.work(base::Work::kCopy, 2 * bytes);
  return {};
}

base::Status LocalPhase::make_outer_step() {
  std::vector<ps::SegmentUpdate> updates;
  std::size_t bytes = 0;
  for (std::uint32_t b = 0; b < plan_.buckets.size(); ++b) {
    const base::Bytes parameters = memory_.parameters(b);
    if (parameters.empty()) continue;
    bytes += parameters.size();
    if (is_plain()) {
      kernels::add_scaled(plan_.buckets[b].dtype, parameters, memory_.gradients(b), -1);
    } else {
      updates.push_back({b, 0, parameters, memory_.gradients(b)});
    }
  }
  scheduler_.work(is_plain() ? base::Work::kCopy : base::Work::kUpdate, bytes);
  if (is_plain()) return {};
  return outer_->apply(updates, outer_numbers(options_.config), 1);
}

void LocalPhase::undo_steps() {
  for (std::uint32_t b = 0; b < plan_.buckets.size(); ++b) {
    if (moved_) {
      copy(memory_.parameters(b), anchor_[b]);
    } else {
      copy(anchor_[b], memory_.parameters(b));
    }
  }
}

void LocalPhase::restart(std::int64_t step) {
  last_round_ = step;
  steps_ = 0;
  samples_ = 0;
  moved_ = false;
  taken_ = 0;
}

}  // namespace gearshift::strategy
