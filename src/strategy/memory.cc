#include "strategy/memory.h"

namespace gearshift::strategy {
namespace {

/// Buckets begin at cache lines.
std::size_t padded(std::size_t bytes) { return (bytes + 63) / 64 * 64; }

}  // namespace

base::Result<std::unique_ptr<BucketMemory>> BucketMemory::create(const BucketPlan& plan,
                                                                 std::size_t buffer_bytes,
                                                                 group::Group* reducers,
                                                                 bool phantom) {
  std::unique_ptr<BucketMemory> memory(new BucketMemory(plan, phantom));
  for (const Bucket& bucket : plan.buckets) {
    GEARSHIFT_ASSIGN_OR_RETURN(const base::Bytes parameters, memory->region(bucket.bytes));
    memory->parameters_.push_back(parameters);
  }
  GEARSHIFT_RETURN_IF_ERROR(memory->make_gradients(reducers));
  GEARSHIFT_ASSIGN_OR_RETURN(memory->buffers_, memory->region(buffer_bytes));
  return memory;
}

base::Result<base::Bytes> BucketMemory::region(std::size_t bytes) {
  if (bytes == 0) return base::Bytes();
  if (phantom_) return base::Bytes(static_cast<std::byte*>(nullptr), bytes);
  GEARSHIFT_ASSIGN_OR_RETURN(auto made, transport::SharedRegion::create(bytes));
  const base::Bytes view = made->view().first(bytes);
  regions_.push_back(std::move(made));
  return view;
}

base::Status BucketMemory::make_gradients(group::Group* reducers) {
  std::size_t total = 0;
  for (const Bucket& bucket : plan_.buckets) total += padded(bucket.gradient_bytes);
  base::Bytes all;
  if (reducers != nullptr && total > 0 && !phantom_) {
    GEARSHIFT_ASSIGN_OR_RETURN(shared_, collectives::allocate(*reducers, total));
    all = shared_->view();
    gradient_region_ = &shared_->region();
  } else {
    GEARSHIFT_ASSIGN_OR_RETURN(all, region(total));
    if (all.data() != nullptr) gradient_region_ = regions_.back().get();
  }
  std::size_t offset = 0;
  for (const Bucket& bucket : plan_.buckets) {
    gradients_.push_back(base::slice(all, offset, bucket.gradient_bytes));
    offset += padded(bucket.gradient_bytes);
  }
  return {};
}

base::Bytes BucketMemory::gradients(std::uint32_t bucket) const {
  return gradients_[bucket].first(plan_.buckets[bucket].bytes);
}

}  // namespace gearshift::strategy
