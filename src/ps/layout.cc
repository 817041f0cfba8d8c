#include <string>

#include "ps/layout_check.h"
#include "ps/protocol.h"

namespace gearshift::ps {
namespace {

using base::Error;
using base::ErrorCode;

base::Status check_segment(const Slice& slice, const Segment& segment, std::uint32_t groups) {
  const std::size_t capacity = slice.bytes / base::size_of(slice.dtype);
  if (segment.slice_offset > capacity || segment.size > capacity - segment.slice_offset) {
    return Error(ErrorCode::kInvalidArgument,
                 "parameter " + std::to_string(segment.parameter) + " reaches beyond its slice");
  }
  if (segment.param_group >= groups) {
    return Error(ErrorCode::kInvalidArgument,
                 "parameter " + std::to_string(segment.parameter) + " is in param group " +
                     std::to_string(segment.param_group) + " of " + std::to_string(groups));
  }
  return {};
}

}  // namespace

base::Status check_slices(const std::vector<Slice>& slices, std::uint32_t param_groups) {
  if (slices.size() > kMaxSlices) {
    return Error(ErrorCode::kInvalidArgument,
                 "a shard of " + std::to_string(slices.size()) + " slices; at most " +
                     std::to_string(kMaxSlices) +
                     " are possible: use more shards, or larger buckets");
  }
  for (const Slice& slice : slices) {
    const std::string where = "slice of bucket " + std::to_string(slice.bucket);
    if (!base::is_floating(slice.dtype)) {
      return Error(ErrorCode::kInvalidArgument,
                   where + " is of " + std::string(base::to_string(slice.dtype)) +
                       ": a server updates floating-point parameters only");
    }
    for (const Segment& segment : slice.segments) {
      if (auto fits = check_segment(slice, segment, param_groups); !fits) {
        return fits.error().within(where);
      }
    }
  }
  return {};
}

}  // namespace gearshift::ps
