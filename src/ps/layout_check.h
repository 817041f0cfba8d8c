#pragma once

#include <cstdint>
#include <vector>

#include "gearshift/base/bytes.h"
#include "gearshift/base/result.h"
#include "gearshift/ps/layout.h"

namespace gearshift::ps {

/// Whether one shard's slices make sense: their number, dtypes, and segments within bounds.
base::Status check_slices(const std::vector<Slice>& slices, std::uint32_t param_groups);

inline std::size_t bytes_of_segment(const Slice& slice, const Segment& segment) {
  return segment.size * base::size_of(slice.dtype);
}

/// The segment's part of memory that holds the whole slice.
template <typename View>
View segment_of(const Slice& slice, const Segment& segment, View whole) {
  return base::slice(whole, segment.slice_offset * base::size_of(slice.dtype),
                     bytes_of_segment(slice, segment));
}

}  // namespace gearshift::ps
