#include "strategy/memory.h"

namespace gearshift::strategy {
namespace {

/// Buckets begin at cache lines.
std::size_t padded(std::size_t bytes) { return (bytes + 63) / 64 * 64; }

/// Parameters begin at pages, as regions of their own would.
std::size_t whole_pages(std::size_t bytes) { return (bytes + 4095) / 4096 * 4096; }

}  // namespace

base::Result<std::unique_ptr<BucketMemory>> BucketMemory::create(const BucketPlan& plan,
                                                                 std::size_t buffer_bytes,
                                                                 GradientReaders readers,
                                                                 bool phantom) {
  std::unique_ptr<BucketMemory> memory(new BucketMemory(plan, phantom));
  std::size_t parameter_bytes = 0;
  std::size_t gradient_bytes = 0;
  for (const Bucket& bucket : plan.buckets) {
    parameter_bytes += whole_pages(bucket.bytes);
    gradient_bytes += padded(bucket.gradient_bytes);
  }
  // One region for all: each takes a descriptor.
  GEARSHIFT_ASSIGN_OR_RETURN(base::Bytes parameters, memory->region(parameter_bytes));
  GEARSHIFT_ASSIGN_OR_RETURN(base::Bytes gradients,
                             memory->make_gradients(gradient_bytes, readers));
  for (const Bucket& bucket : plan.buckets) {
    memory->parameters_.push_back(parameters.first(bucket.bytes));
    parameters = base::slice(parameters, whole_pages(bucket.bytes),
                             parameters.size() - whole_pages(bucket.bytes));
    memory->gradients_.push_back(gradients.first(bucket.gradient_bytes));
    gradients = base::slice(gradients, padded(bucket.gradient_bytes),
                            gradients.size() - padded(bucket.gradient_bytes));
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
