#pragma once

#include <memory>
#include <vector>

#include "gearshift/base/bytes.h"
#include "gearshift/base/result.h"
#include "gearshift/strategy/plan.h"
#include "gearshift/transport/shared_region.h"

namespace gearshift::strategy {

/// The memory of all buckets: parameters, gradients, and the non-trainable state. Zeroed, and of a
/// kind that processes of one host can map.
class BucketMemory {
 public:
  static base::Result<std::unique_ptr<BucketMemory>> create(const BucketPlan& plan,
                                                            std::size_t buffer_bytes);

  base::Bytes parameters(std::uint32_t bucket) const { return parameters_[bucket]; }
  const std::vector<base::Bytes>& all_parameters() const { return parameters_; }
  /// Without, and with, the presence counts at the end.
  base::Bytes gradients(std::uint32_t bucket) const;
  base::Bytes gradients_and_counts(std::uint32_t bucket) const { return gradients_[bucket]; }
  base::Bytes buffers() const { return buffers_; }

 private:
  explicit BucketMemory(const BucketPlan& plan) : plan_(plan) {}
  const BucketPlan& plan_;
  std::vector<std::unique_ptr<transport::SharedRegion>> regions_;
  std::vector<base::Bytes> parameters_, gradients_;
  base::Bytes buffers_;
};

}  // namespace gearshift::strategy
