#include "gearshift/strategy/plan.h"

#include <algorithm>
#include <cassert>
#include <functional>
#include <numeric>

#include "gearshift/collectives/collectives.h"

namespace gearshift::strategy {
namespace {

constexpr std::size_t kAlignment = 64;
/// Of a parameter: no address space has more, and sums over a model do not overflow.
constexpr std::size_t kMostBytes = std::size_t{1} << 48;

std::size_t align_up(std::size_t n) { return (n + kAlignment - 1) / kAlignment * kAlignment; }

/// Closes a bucket: pads it and appends room for the presence counts.
void seal(Bucket& bucket) {
  bucket.bytes = align_up(bucket.bytes);
  bucket.gradient_bytes = bucket.bytes + bucket.entries.size() * base::size_of(bucket.dtype);
}

/// The parts of the parameters of `bucket` that lie in [begin, end) of its bytes.
std::vector<ps::Segment> segments_in(const BucketPlan& plan, const Bucket& bucket,
                                     std::size_t begin, std::size_t end) {
  const std::size_t width = base::size_of(bucket.dtype);
  std::vector<ps::Segment> segments;
  for (const Bucket::Entry& entry : bucket.entries) {
    const ParameterSpec& parameter = plan.parameters[entry.parameter];
    const std::size_t first = std::max(begin, entry.offset);
    const std::size_t last = std::min(end, entry.offset + parameter.elements() * width);
    if (first >= last) continue;
    segments.push_back({entry.parameter, parameter.param_group, (first - begin) / width,
                        (first - entry.offset) / width, (last - first) / width});
  }
  return segments;
}

/// Cuts [begin, end) of a bucket into slices, evenly.
void append_slices(const BucketPlan& plan, std::uint32_t bucket, std::size_t begin, std::size_t end,
                   std::size_t slice_bytes, std::vector<ps::Slice>& slices) {
  const std::size_t lines = (end - begin) / kAlignment;
  const std::size_t most = std::max(slice_bytes / kAlignment, std::size_t{1});
  const std::size_t count = (lines + most - 1) / most;
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t first = begin + collectives::part_begin(lines, count, i) * kAlignment;
    const std::size_t last = begin + collectives::part_begin(lines, count, i + 1) * kAlignment;
    const Bucket& spec = plan.buckets[bucket];
    slices.push_back(
        {bucket, spec.dtype, first, last - first, segments_in(plan, spec, first, last)});
  }
}

/// Bytes that a parameter takes in its bucket.
base::Result<std::size_t> checked_bytes(const ParameterSpec& parameter) {
  if (!base::is_floating(parameter.dtype)) {
    return base::Error(base::ErrorCode::kUnsupported,
                       "parameter '" + parameter.name + "' is " +
                           std::string(base::to_string(parameter.dtype)) +
                           "; only float parameters can be trained");
  }
  std::size_t bytes = base::size_of(parameter.dtype);
  bool is_empty = false, is_too_large = false;
  for (const std::int64_t extent : parameter.shape) {
    if (extent < 0) {
      return base::Error(base::ErrorCode::kInvalidArgument,
                         "parameter '" + parameter.name + "' has a dimension of " +
                             std::to_string(extent) + ": none can be negative");
    }
    is_empty = is_empty || extent == 0;
    if (extent == 0 || is_too_large) continue;
    is_too_large = static_cast<std::size_t>(extent) > kMostBytes / bytes;
    if (!is_too_large) bytes *= static_cast<std::size_t>(extent);
  }
  if (is_empty) return 0;
  if (!is_too_large) return align_up(bytes);
  return base::Error(base::ErrorCode::kInvalidArgument,
                     "parameter '" + parameter.name + "' is larger than any memory");
}

}  // namespace

std::size_t ParameterSpec::elements() const {
  std::size_t n = 1;
  for (const std::int64_t extent : shape) n *= static_cast<std::size_t>(extent);
  return n;
}

base::Result<BucketPlan> BucketPlan::make(std::vector<ParameterSpec> parameters,
                                          std::size_t bucket_bytes) {
  if (bucket_bytes == 0) {
    return base::Error(base::ErrorCode::kInvalidArgument, "bucket_bytes must be positive");
  }
  BucketPlan plan;
  plan.bucket_of.resize(parameters.size());
  plan.offset_of.resize(parameters.size());
  std::vector<int> open(8, -1);  // dtype → bucket being filled
  for (std::size_t i = parameters.size(); i-- > 0;) {
    const ParameterSpec& parameter = parameters[i];
    GEARSHIFT_ASSIGN_OR_RETURN(const std::size_t bytes, checked_bytes(parameter));
    int& current = open[static_cast<std::size_t>(parameter.dtype)];
    if (current >= 0) {
      const std::size_t so_far = plan.buckets[static_cast<std::size_t>(current)].bytes;
      if (so_far > 0 && bytes > 0 && so_far + bytes > bucket_bytes) current = -1;
    }
    if (current < 0) {
      current = static_cast<int>(plan.buckets.size());
      plan.buckets.push_back({parameter.dtype, {}, 0, 0});
    }
    Bucket& bucket = plan.buckets[static_cast<std::size_t>(current)];
    plan.bucket_of[i] = static_cast<std::uint32_t>(current);
    plan.offset_of[i] = bucket.bytes;
    bucket.entries.push_back({static_cast<std::uint32_t>(i), bucket.bytes});
    bucket.bytes += bytes;
  }
  for (Bucket& bucket : plan.buckets) seal(bucket);
  plan.parameters = std::move(parameters);
  return plan;
}

std::size_t BucketPlan::total_bytes() const {
  std::size_t sum = 0;
  for (const Bucket& bucket : buckets) sum += bucket.bytes;
  return sum;
}

namespace {

ps::Layout equal_layout(const BucketPlan& plan, std::size_t count, std::size_t slice_bytes) {
  ps::Layout layout;
  layout.shards.resize(count);
  std::size_t next = 0;  // who takes the first of the larger parts: rotates over the buckets
  for (std::size_t b = 0; b < plan.buckets.size(); ++b) {
    const std::size_t lines = plan.buckets[b].bytes / kAlignment;
    for (std::size_t part = 0; part < count; ++part) {
      append_slices(plan, static_cast<std::uint32_t>(b),
                    collectives::part_begin(lines, count, part) * kAlignment,
                    collectives::part_begin(lines, count, part + 1) * kAlignment, slice_bytes,
                    layout.shards[(next + part) % count]);
    }
    next = (next + lines % count) % count;
  }
  return layout;
}

/// What each shard gets of a bucket: its share of all lines so far, less what it has; lines that
/// are left over go to whom most is owed.
class Shares {
 public:
  explicit Shares(const std::vector<std::uint32_t>& weights)
      : weights_(weights), sum_(std::accumulate(weights.begin(), weights.end(), std::int64_t{0})) {}

  std::vector<std::size_t> of_next(std::size_t lines) {
    std::vector<std::size_t> shares(weights_.size());
    std::size_t left = lines;
    for (std::size_t k = 0; k < weights_.size(); ++k) {
      owed_[k] += static_cast<std::int64_t>(lines) * weights_[k];
      const std::int64_t whole = std::max<std::int64_t>(0, owed_[k] / sum_);
      shares[k] = std::min(left, static_cast<std::size_t>(whole));
      give(k, shares[k], left);
    }
    while (left > 0) {
      const auto neediest = std::max_element(owed_.begin(), owed_.end()) - owed_.begin();
      ++shares[static_cast<std::size_t>(neediest)];
      give(static_cast<std::size_t>(neediest), 1, left);
    }
    return shares;
  }

 private:
  void give(std::size_t shard, std::size_t lines, std::size_t& left) {
    owed_[shard] -= static_cast<std::int64_t>(lines) * sum_;
    left -= lines;
  }

  const std::vector<std::uint32_t>& weights_;
  const std::int64_t sum_;
  /// What is still due to each shard, times the sum of the weights; negative: it is ahead.
  std::vector<std::int64_t> owed_ = std::vector<std::int64_t>(weights_.size());
};

ps::Layout weighted_layout(const BucketPlan& plan, const std::vector<std::uint32_t>& weights,
                           std::size_t slice_bytes) {
  ps::Layout layout;
  layout.shards.resize(weights.size());
  Shares shares(weights);
  for (std::size_t b = 0; b < plan.buckets.size(); ++b) {
    std::size_t begin = 0;
    const std::vector<std::size_t> lines = shares.of_next(plan.buckets[b].bytes / kAlignment);
    for (std::size_t k = 0; k < weights.size(); ++k) {
      const std::size_t end = begin + lines[k] * kAlignment;
      append_slices(plan, static_cast<std::uint32_t>(b), begin, end, slice_bytes, layout.shards[k]);
      begin = end;
    }
  }
  return layout;
}

}  // namespace

ps::Layout make_layout(const BucketPlan& plan, int shards, std::size_t slice_bytes,
                       const std::vector<std::uint32_t>& weights) {
  const auto count = static_cast<std::size_t>(shards);
  assert(weights.empty() || weights.size() == count);
  const bool equal =
      std::adjacent_find(weights.begin(), weights.end(), std::not_equal_to<>()) == weights.end();
  return equal ? equal_layout(plan, count, slice_bytes)
               : weighted_layout(plan, weights, slice_bytes);
}

}  // namespace gearshift::strategy
