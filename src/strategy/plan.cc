#include "gearshift/strategy/plan.h"

#include <algorithm>

#include "gearshift/collectives/collectives.h"

namespace gearshift::strategy {
namespace {

constexpr std::size_t kAlignment = 64;

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
    if (!base::is_floating(parameter.dtype)) {
      return base::Error(base::ErrorCode::kUnsupported,
                         "parameter '" + parameter.name + "' is " +
                             std::string(base::to_string(parameter.dtype)) +
                             "; only float parameters can be trained");
    }
    const std::size_t bytes = align_up(parameter.elements() * base::size_of(parameter.dtype));
    int& current = open[static_cast<std::size_t>(parameter.dtype)];
    if (current >= 0 &&
        plan.buckets[static_cast<std::size_t>(current)].bytes + bytes > bucket_bytes) {
      current = -1;
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

ps::Layout make_layout(const BucketPlan& plan, int shards) {
  ps::Layout layout;
  const auto count = static_cast<std::size_t>(shards);
  layout.shards.resize(count);
  std::size_t next = 0;  // who takes the first of the larger parts: rotates over the buckets
  for (std::size_t b = 0; b < plan.buckets.size(); ++b) {
    const Bucket& bucket = plan.buckets[b];
    const std::size_t lines = bucket.bytes / kAlignment;
    for (std::size_t part = 0; part < count; ++part) {
      const std::size_t begin = collectives::part_begin(lines, count, part) * kAlignment;
      const std::size_t end = collectives::part_begin(lines, count, part + 1) * kAlignment;
      if (begin == end) continue;
      ps::Slice slice{static_cast<std::uint32_t>(b), bucket.dtype, begin, end - begin, {}};
      slice.segments = segments_in(plan, bucket, begin, end);
      layout.shards[(next + part) % count].push_back(std::move(slice));
    }
    next = (next + lines % count) % count;
  }
  return layout;
}

}  // namespace gearshift::strategy
