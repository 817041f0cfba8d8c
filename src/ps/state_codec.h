#pragma once

#include <map>
#include <string>
#include <vector>

#include "gearshift/base/bytes.h"
#include "gearshift/base/result.h"
#include "gearshift/ps/layout.h"

namespace gearshift::ps {

/// Which optimizer state a segment has. Its tensors' values travel apart, as the state data of the
/// slice: segment by segment, tensor by tensor in this order, without gaps.
struct SegmentState {
  std::vector<std::string> tensors;
  std::map<std::string, double> scalars;
};

/// State of one shard: for each slice, its segments.
struct StateDescription {
  std::vector<std::vector<SegmentState>> slices;

  std::size_t data_bytes(const std::vector<Slice>& layout, std::size_t slice) const;
};

std::vector<std::byte> encode(const StateDescription& description);
/// kProtocol unless it has the layout's slices and segments.
base::Result<StateDescription> decode_description(base::ConstBytes bytes,
                                                  const std::vector<Slice>& layout);

}  // namespace gearshift::ps
