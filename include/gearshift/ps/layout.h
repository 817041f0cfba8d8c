#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "gearshift/base/dtype.h"

namespace gearshift::ps {

/// The piece of one parameter that lies in one slice. Counts and offsets are elements.
struct Segment {
  std::uint32_t parameter = 0;       ///< index in the model's parameter list
  std::uint32_t param_group = 0;     ///< optimizer param group that the parameter belongs to
  std::size_t slice_offset = 0;      ///< first element within the slice
  std::size_t parameter_offset = 0;  ///< first element within the parameter
  std::size_t size = 0;
};

/// The part of one bucket that one shard owns. A tensor may span slices. Bytes between segments
/// are padding: they travel, and are never updated.
struct Slice {
  std::uint32_t bucket = 0;
  base::DType dtype = base::DType::kF32;
  std::size_t bucket_offset = 0;  ///< bytes; a multiple of 64
  std::size_t bytes = 0;
  std::vector<Segment> segments;
};

/// What every shard owns: `shards[k]` lists shard k's slices by ascending bucket. A shard may own
/// nothing of a bucket. Equal on all ranks.
struct Layout {
  std::vector<std::vector<Slice>> shards;
};

}  // namespace gearshift::ps
