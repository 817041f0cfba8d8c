#pragma once

#include <memory>
#include <vector>

#include "gearshift/base/bytes.h"
#include "gearshift/base/result.h"
#include "gearshift/collectives/collectives.h"
#include "gearshift/group/group.h"
#include "gearshift/strategy/plan.h"
#include "gearshift/transport/shared_region.h"

namespace gearshift::strategy {

/// The memory of all buckets: parameters, gradients, and the non-trainable state. Zeroed. Ranks of
/// one host map each other's gradients. Or all of it phantoms.
class BucketMemory {
 public:
  /// Collective over the group that will reduce the gradients; null when none will.
  static base::Result<std::unique_ptr<BucketMemory>> create(const BucketPlan& plan,
                                                            std::size_t buffer_bytes,
                                                            group::Group* reducers,
                                                            bool phantom = false);

  base::Bytes parameters(std::uint32_t bucket) const { return parameters_[bucket]; }
  const std::vector<base::Bytes>& all_parameters() const { return parameters_; }
  /// Without, and with, the presence counts at the end.
  base::Bytes gradients(std::uint32_t bucket) const;
  base::Bytes gradients_and_counts(std::uint32_t bucket) const { return gradients_[bucket]; }
  /// What the gradients lie in; null for phantoms, and where there are none.
  const transport::SharedRegion* gradient_region() const { return gradient_region_; }
  base::Bytes buffers() const { return buffers_; }

 private:
  BucketMemory(const BucketPlan& plan, bool phantom) : plan_(plan), phantom_(phantom) {}
  base::Result<base::Bytes> region(std::size_t bytes);
  base::Status make_gradients(group::Group* reducers);

  const BucketPlan& plan_;
  const bool phantom_;
  std::vector<std::unique_ptr<transport::SharedRegion>> regions_;
  std::unique_ptr<collectives::SharedBuffer> shared_;  ///< of all gradients, when they are reduced
  std::vector<base::Bytes> parameters_, gradients_;
  const transport::SharedRegion* gradient_region_ = nullptr;
  base::Bytes buffers_;
};

}  // namespace gearshift::strategy
