#pragma once

#include <memory>
#include <vector>

#include "gearshift/base/bytes.h"
#include "gearshift/base/pages.h"
#include "gearshift/base/result.h"
#include "gearshift/collectives/collectives.h"
#include "gearshift/group/group.h"
#include "gearshift/strategy/plan.h"
#include "gearshift/transport/shared_region.h"

namespace gearshift::strategy {

/// Who else may look at gradients, beside this process.
struct GradientReaders {
  group::Group* reducers = nullptr;  ///< will reduce them; null when nobody will
  bool servers = false;              ///< a server of this host will, from memory that it maps
};

/// The memory of all buckets: parameters, gradients, and the non-trainable state. Zeroed. Ranks of
/// one host map each other's gradients, or lend them to a server; elsewhere gradients are on huge
/// pages where the kernel grants them, and a forked child finds zeros there. Children share all
/// else, so that those who load data cost no copies. Or all of it phantoms.
class BucketMemory {
 public:
  /// Collective over `readers.reducers`.
  static base::Result<std::unique_ptr<BucketMemory>> create(const BucketPlan& plan,
                                                            std::size_t buffer_bytes,
                                                            GradientReaders readers,
                                                            bool phantom = false);

  base::Bytes parameters(std::uint32_t bucket) const { return parameters_[bucket]; }
  const std::vector<base::Bytes>& all_parameters() const { return parameters_; }
  /// Without, and with, the presence counts at the end.
  base::Bytes gradients(std::uint32_t bucket) const;
  base::Bytes gradients_and_counts(std::uint32_t bucket) const { return gradients_[bucket]; }
  /// What the gradients lie in; null where no other process looks at them.
  const transport::SharedRegion* gradient_region() const { return gradient_region_; }
  base::Bytes buffers() const { return buffers_; }

 private:
  BucketMemory(const BucketPlan& plan, bool phantom) : plan_(plan), phantom_(phantom) {}
  base::Result<base::Bytes> region(std::size_t bytes);
  base::Result<base::Bytes> make_gradients(std::size_t bytes, GradientReaders readers);

  const BucketPlan& plan_;
  const bool phantom_;
  std::vector<std::unique_ptr<transport::SharedRegion>> regions_;
  // All gradients lie in one of these, or in the last of the regions.
  std::unique_ptr<collectives::SharedBuffer> shared_;
  std::unique_ptr<base::Pages> pages_;
  std::vector<base::Bytes> parameters_, gradients_;
  const transport::SharedRegion* gradient_region_ = nullptr;
  base::Bytes buffers_;
};

}  // namespace gearshift::strategy
