#include "strategy/reducer.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <mutex>

#include "gearshift/kernels/half.h"
#include "gearshift/kernels/reduce.h"
#include "strategy/vigil.h"

namespace gearshift::strategy {
namespace {

/// Ranks whose activity bits travel in one double, and above them, how many of these vote: integers
/// below 2^53 are exact.
constexpr int kRanksPerWord = 47;
constexpr std::uint64_t kVote = std::uint64_t{1} << kRanksPerWord;
constexpr std::size_t kFixedWords = 5;
/// Steps and rounds are one number, so that a sum over the ranks is exact and compares both.
constexpr int kMostRounds = 1 << 10;

double position_of(const RoundInput& input) {
  return static_cast<double>(input.step) * kMostRounds + std::min(input.rounds, kMostRounds - 1);
}

struct Ranks {
  int active = 0;
  int votes = 0;
  base::Rank lowest{0};  ///< that is active
};

Ranks ranks_of(const std::vector<double>& control) {
  Ranks ranks;
  for (std::size_t word = control.size(); word-- > kFixedWords;) {
    const auto whole = static_cast<std::uint64_t>(control[word]);
    const std::uint64_t bits = whole % kVote;
    ranks.votes += static_cast<int>(whole / kVote);
    ranks.active += std::popcount(bits);
    if (bits == 0) continue;
    ranks.lowest =
        base::Rank(static_cast<int>(word - kFixedWords) * kRanksPerWord + std::countr_zero(bits));
  }
  return ranks;
}

}  // namespace

Reducer::Reducer(std::vector<group::Group> lanes, std::optional<group::Group> control,
                 const BucketPlan& plan, BucketMemory& memory, CommTask& comm, const AllReduce& how)
    : plan_(plan),
      memory_(memory),
      how_(how),
      closed_(plan.buckets.size()),
      is_closed_(plan.buckets.size(), false),
      present_(plan.parameters.size(), 0),
      monitor_(lanes.front().scheduler().make_monitor()) {
  for (group::Group& group : lanes) {
    if (lanes_.empty()) {
      lanes_.push_back(std::make_unique<Lane>(Lane{.group = std::move(group), .comm = &comm}));
    } else {
      const std::string name = "gs-comm-" + std::to_string(lanes_.size() + 1);
      lanes_.push_back(make_lane(std::move(group), name, comm));
    }
  }
  if (control) control_lane_ = make_lane(std::move(*control), "gs-control", comm);
  make_halves();
}

std::unique_ptr<Reducer::Lane> Reducer::make_lane(group::Group group, const std::string& name,
                                                  CommTask& comm) {
  auto lane = std::make_unique<Lane>(Lane{.group = std::move(group)});
  lane->own = std::make_unique<CommTask>(lane->group.scheduler(), name, comm.busy());
  lane->comm = lane->own.get();
  return lane;
}

void Reducer::use(const AllReduce& how) {
  how_ = how;
  make_halves();
}

void Reducer::begin(const RoundInput& input) {
  next_bucket_ = 0;
  std::fill(is_closed_.begin(), is_closed_.end(), false);
  samples_ = input.samples;
  expected_ = control_lane_ ? result_.samples : 0;
  patience_ = input.patience;
  awaited_ = false;
  set_control(Control::kPending);
  control_lane().comm->post([this, input] { return exchange_control(input); });
}

void Reducer::close_bucket(std::uint32_t bucket, std::vector<bool> present) {
  closed_[bucket] = std::move(present);
  is_closed_[bucket] = true;
  while (next_bucket_ < plan_.buckets.size() && is_closed_[next_bucket_]) {
    const std::uint32_t b = next_bucket_++;
    Lane& lane = lane_of(b);
    if (&lane != &control_lane() && !is_early(b)) {
      lane.comm->post([this] { return await_control(); }, false);
    }
    lane.comm->post([this, &lane, b] { return reduce_bucket(lane, b); });
  }
}

base::Result<RoundResult> Reducer::end() {
  if (!memory_.buffers().empty()) {
    control_lane().comm->post([this] { return broadcast_buffers(); });
  }
  return end_buckets();
}

base::Result<RoundResult> Reducer::end_buckets() {
  GEARSHIFT_RETURN_IF_ERROR(drain());
  correct_early();
  return result_;
}

/// All lanes; the error of the control values goes before those that follow from it.
base::Status Reducer::drain() {
  awaited_ = true;
  base::Status first = control_lane().comm->drain();
  for (const auto& lane : lanes_) {
    const base::Status status = lane->comm->drain();
    if (first) first = status;
  }
  return first;
}

base::Result<RoundResult> Reducer::shadow_round(double loss_sum, double loss_samples,
                                                const std::function<void()>& before) {
  RoundInput input;
  input.loss_sum = loss_sum;
  input.loss_samples = loss_samples;
  input.samples = 0;
  input.joined = true;
  input.patience = lanes_[0]->group.timeout() * kPatientTimeouts;
  begin(input);
  GEARSHIFT_RETURN_IF_ERROR(drain());
  if (result_.joined == lanes_[0]->group.size()) return result_;
  if (before) before();
  for (std::uint32_t b = 0; b < plan_.buckets.size(); ++b) {
    base::zero(memory_.gradients(b));
    close_bucket(b, std::vector<bool>(plan_.buckets[b].entries.size(), false));
  }
  return end();
}

base::Result<RoundResult> Reducer::meet(const RoundInput& input) {
  begin(input);
  expected_ = 0;  // buckets follow when the total is known
  GEARSHIFT_RETURN_IF_ERROR(drain());
  patience_.reset();
  return result_;
}

base::Result<RoundResult> Reducer::exchange(const std::function<void(std::uint32_t)>& fill) {
  for (std::uint32_t b = 0; b < plan_.buckets.size(); ++b) {
    fill(b);
    close_bucket(b, std::vector<bool>(plan_.buckets[b].entries.size(), true));
  }
  return result_.joined < lanes_[0]->group.size() ? end() : end_buckets();
}

base::Status Reducer::exchange_control(const RoundInput& input) {
  const base::Status exchanged = control(input);
  set_control(exchanged ? Control::kKnown : Control::kFailed);
  return exchanged;
}

void Reducer::set_control(Control state) {
  std::lock_guard<base::Monitor> lock(*monitor_);
  control_ = state;
  monitor_->notify_all();
}

/// Who needs the round's total and is not behind the exchange in its lane waits for as long as it
/// takes, which bounds its own waits.
base::Status Reducer::await_control() {
  std::lock_guard<base::Monitor> lock(*monitor_);
  while (control_ == Control::kPending) monitor_->wait_until(base::TimePoint::never());
  if (control_ == Control::kKnown) return {};
  return base::Error(base::ErrorCode::kAborted, "the exchange before the buckets has failed");
}

bool Reducer::is_early(std::uint32_t bucket) const {
  const base::DType dtype = plan_.buckets[bucket].dtype;
  return expected_ > 0 && (dtype == base::DType::kF32 || dtype == base::DType::kF64);
}

void Reducer::correct_early() {
  // Where there is no sample at all, all is zero.
  if (expected_ == 0 || expected_ == result_.samples || result_.samples == 0) return;
  for (std::uint32_t b = 0; b < plan_.buckets.size(); ++b) {
    if (!is_early(b)) continue;
    kernels::scale(plan_.buckets[b].dtype, memory_.gradients(b), expected_ / result_.samples);
  }
}

base::Status Reducer::control(const RoundInput& input) {
  group::Group& group = control_lane().group;
  const auto size = static_cast<std::size_t>(group.size());
  std::vector<double> control(kFixedWords + (size + kRanksPerWord - 1) / kRanksPerWord, 0.0);
  control[0] = input.samples;
  const double position = position_of(input);
  control[3] = input.loss_sum;
  control[4] = input.loss_samples;
  if (!input.joined) {
    control[1] = input.digest;
    control[2] = position;
    const int rank = group.rank().value;
    control[kFixedWords + static_cast<std::size_t>(rank / kRanksPerWord)] =
        std::ldexp(1.0, rank % kRanksPerWord) + (input.vote ? static_cast<double>(kVote) : 0);
  }
  collectives::Options options;
  options.label = input.joined ? "out of batches, following the others' steps" : "step control";
  options.timeout = patience_;
  options.background = !awaited_;
  GEARSHIFT_RETURN_IF_ERROR(
      collectives::all_reduce(group, std::as_writable_bytes(std::span(control)), base::DType::kF64,
                              base::ReduceOp::kSum, options));
  const Ranks ranks = ranks_of(control);
  const double active = ranks.active;
  result_ = {.samples = control[0],
             .joined = group.size() - ranks.active,
             .votes = ranks.votes,
             .loss_sum = control[3],
             .loss_samples = control[4],
             .root = ranks.lowest,
             .agreed = input.joined || control[1] == active * input.digest,
             .in_step = input.joined || control[2] == active * position};
  if (active > 0) result_.step = static_cast<std::int64_t>(control[2] / active / kMostRounds);
  return {};
}

base::Status Reducer::reduce_bucket(Lane& lane, std::uint32_t bucket) {
  const int ranks = lane.group.size();
  const double total = is_early(bucket) ? expected_ : result_.samples;
  double factor = total > 0 ? samples_ / total : 0;
  if (ranks == 1) factor = 1;
  if (factor == 0) {
    // A gradient of no samples has no weight, whatever it is (NaN, often), but is still present.
    base::zero(memory_.gradients(bucket));
    factor = 1;
  }
  write_counts(bucket, 1 / factor);
  if (ranks > 1) GEARSHIFT_RETURN_IF_ERROR(sum(lane, bucket, factor));
  read_counts(bucket);
  return {};
}

base::Status Reducer::sum(Lane& lane, std::uint32_t bucket, double factor) {
  const base::Bytes data = memory_.gradients_and_counts(bucket);
  collectives::Options options;
  options.algorithm = how_.algorithm;
  options.label = "all_reduce bucket " + std::to_string(bucket);
  options.timeout = patience_;
  options.background = !awaited_;
  if (!is_compressed(bucket)) {
    options.factor = factor;
    return collectives::all_reduce(lane.group, data, plan_.buckets[bucket].dtype,
                                   base::ReduceOp::kSum, options);
  }
  const base::Bytes half = base::slice(lane.half.view(), 0, data.size() / 2);
  kernels::narrow(base::DType::kBF16, half, data, factor);
  lane.group.scheduler().work(base::Work::kCopy, data.size());
  GEARSHIFT_RETURN_IF_ERROR(
      collectives::all_reduce(lane.group, half, base::DType::kBF16, base::ReduceOp::kSum, options));
  kernels::widen(base::DType::kBF16, data, half);
  lane.group.scheduler().work(base::Work::kCopy, data.size());
  return {};
}

bool Reducer::is_compressed(std::uint32_t bucket) const {
  return how_.compression == Compression::kBf16 && plan_.buckets[bucket].dtype == base::DType::kF32;
}

void Reducer::make_halves() {
  for (const auto& lane : lanes_) lane->half = base::Buffer();
  if (lanes_[0]->group.size() == 1) return;
  std::vector<std::size_t> most(lanes_.size(), 0);
  bool phantom = false;
  for (std::uint32_t b = 0; b < plan_.buckets.size(); ++b) {
    if (!is_compressed(b)) continue;
    const base::Bytes data = memory_.gradients_and_counts(b);
    std::size_t& size = most[b % lanes_.size()];
    size = std::max(size, data.size() / 2);
    phantom = phantom || base::is_phantom(data);
  }
  for (std::size_t i = 0; i < lanes_.size(); ++i) {
    if (most[i] == 0) continue;
    lanes_[i]->half = phantom ? base::Buffer::phantom(most[i]) : base::Buffer(most[i]);
  }
}

base::Status Reducer::broadcast_buffers() {
  collectives::Options options;
  options.label = "broadcast buffers";
  options.timeout = patience_;
  options.background = !awaited_;
  return collectives::broadcast(control_lane().group, memory_.buffers(), result_.root, options);
}

namespace {

/// The counts behind a bucket's data, as one byte range per entry.
base::Bytes count_of(base::Bytes gradients_and_counts, const Bucket& bucket, std::size_t entry) {
  const std::size_t width = base::size_of(bucket.dtype);
  return gradients_and_counts.subspan(bucket.bytes + entry * width, width);
}

/// A positive number in a float type; only whether it is zero matters.
void write_real(base::DType dtype, double value, std::byte* into) {
  constexpr double kLargestF16 = 65504;
  const auto single = static_cast<float>(value);
  switch (dtype) {
    case base::DType::kF64:
      std::memcpy(into, &value, sizeof value);
      return;
    case base::DType::kF32:
      std::memcpy(into, &single, sizeof single);
      return;
    default: {
      const std::uint16_t half =
          dtype == base::DType::kF16
              ? kernels::f16_from_float(static_cast<float>(std::min(value, kLargestF16)))
              : kernels::bf16_from_float(single);
      std::memcpy(into, &half, sizeof half);
    }
  }
}

}  // namespace

void Reducer::write_counts(std::uint32_t bucket, double value) {
  if (base::is_phantom(memory_.gradients_and_counts(bucket))) return;
  const Bucket& spec = plan_.buckets[bucket];
  const std::size_t width = base::size_of(spec.dtype);
  std::byte present[sizeof(double)] = {};
  write_real(spec.dtype, value, present);
  for (std::size_t i = 0; i < spec.entries.size(); ++i) {
    const base::Bytes count = count_of(memory_.gradients_and_counts(bucket), spec, i);
    std::fill(count.begin(), count.end(), std::byte{0});
    if (closed_[bucket][i]) std::memcpy(count.data(), present, width);
  }
}

void Reducer::read_counts(std::uint32_t bucket) {
  const Bucket& spec = plan_.buckets[bucket];
  if (base::is_phantom(memory_.gradients_and_counts(bucket))) {
    // No counts have travelled: what this rank has is all that it knows.
    for (std::size_t i = 0; i < spec.entries.size(); ++i) {
      present_[spec.entries[i].parameter] = closed_[bucket][i] ? 1 : 0;
    }
    return;
  }
  for (std::size_t i = 0; i < spec.entries.size(); ++i) {
    const base::Bytes count = count_of(memory_.gradients_and_counts(bucket), spec, i);
    present_[spec.entries[i].parameter] =
        std::any_of(count.begin(), count.end(), [](std::byte b) { return b != std::byte{0}; }) ? 1
                                                                                               : 0;
  }
}

}  // namespace gearshift::strategy
