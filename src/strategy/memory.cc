#include "strategy/memory.h"

namespace gearshift::strategy {

base::Result<std::unique_ptr<BucketMemory>> BucketMemory::create(const BucketPlan& plan,
                                                                 std::size_t buffer_bytes) {
  std::unique_ptr<BucketMemory> memory(new BucketMemory(plan));
  const auto region = [&](std::size_t bytes) -> base::Result<base::Bytes> {
    if (bytes == 0) return base::Bytes();
    GEARSHIFT_ASSIGN_OR_RETURN(auto made, transport::SharedRegion::create(bytes));
    const base::Bytes view = made->view().first(bytes);
    memory->regions_.push_back(std::move(made));
    return view;
  };
  for (const Bucket& bucket : plan.buckets) {
    GEARSHIFT_ASSIGN_OR_RETURN(const base::Bytes parameters, region(bucket.bytes));
    GEARSHIFT_ASSIGN_OR_RETURN(const base::Bytes gradients, region(bucket.gradient_bytes));
    memory->parameters_.push_back(parameters);
    memory->gradients_.push_back(gradients);
  }
  GEARSHIFT_ASSIGN_OR_RETURN(memory->buffers_, region(buffer_bytes));
  return memory;
}

base::Bytes BucketMemory::gradients(std::uint32_t bucket) const {
  return gradients_[bucket].first(plan_.buckets[bucket].bytes);
}

}  // namespace gearshift::strategy
