#include "strategy/memory.h"

namespace gearshift::strategy {
namespace {

/// Buckets begin at cache lines.
std::size_t padded(std::size_t bytes) { return (bytes + 63) / 64 * 64; }

}  // namespace

base::Result<std::unique_ptr<BucketMemory>> BucketMemory::create(const BucketPlan& plan,
                                                                 std::size_t buffer_bytes,
                                                                 GradientReaders readers,
                                                                 bool phantom) {
  std::unique_ptr<BucketMemory> memory(new BucketMemory(plan, phantom));
  std::size_t gradient_bytes = 0;
  for (const Bucket& bucket : plan.buckets) {
    GEARSHIFT_ASSIGN_OR_RETURN(const base::Bytes parameters, memory->region(bucket.bytes));
    memory->parameters_.push_back(parameters);
    gradient_bytes += padded(bucket.gradient_bytes);
  }
  GEARSHIFT_ASSIGN_OR_RETURN(const base::Bytes gradients,
                             memory->make_gradients(gradient_bytes, readers));
  std::size_t offset = 0;
  for (const Bucket& bucket : plan.buckets) {
    memory->gradients_.push_back(base::slice(gradients, offset, bucket.gradient_bytes));
    offset += padded(bucket.gradient_bytes);
  }
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

base::Result<base::Bytes> BucketMemory::make_gradients(std::size_t bytes, GradientReaders readers) {
  if (bytes == 0 || phantom_) return region(bytes);
  if (readers.reducers != nullptr && readers.reducers->shares_memory()) {
    GEARSHIFT_ASSIGN_OR_RETURN(shared_, collectives::allocate(*readers.reducers, bytes));
    gradient_region_ = shared_->region();
    return shared_->view();
  }
  if (readers.servers) {
    GEARSHIFT_ASSIGN_OR_RETURN(const base::Bytes all, region(bytes));
    gradient_region_ = regions_.back().get();
    return all;
  }
  GEARSHIFT_ASSIGN_OR_RETURN(pages_, base::Pages::create(bytes, base::Pages::InChild::kZeros));
  return pages_->view();
}

base::Bytes BucketMemory::gradients(std::uint32_t bucket) const {
  return gradients_[bucket].first(plan_.buckets[bucket].bytes);
}

}  // namespace gearshift::strategy
