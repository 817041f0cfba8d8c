#include "gearshift/ps/optimizer.h"

#include <atomic>
#include <mutex>

namespace gearshift::ps {
namespace {

/// Held for a copy of a handle only, so spinning is short; a Monitor would need a scheduler.
class SpinLock {
 public:
  void lock() {
    while (held_.test_and_set(std::memory_order_acquire)) {
    }
  }
  void unlock() { held_.clear(std::memory_order_release); }

 private:
  std::atomic_flag held_ = ATOMIC_FLAG_INIT;
};

struct ExternalFactory {
  SpinLock lock;
  std::shared_ptr<const OptimizerFactory> make;
};

ExternalFactory& external() {
  // Never destroyed: what it holds may belong to an interpreter that is gone by then.
  static auto& factory = *new ExternalFactory;
  return factory;
}

}  // namespace

void set_external_optimizer_factory(OptimizerFactory factory) {
  // The former one is dropped outside the lock: its destructor may run Python.
  auto made = factory ? std::make_shared<const OptimizerFactory>(std::move(factory)) : nullptr;
  std::lock_guard<SpinLock> lock(external().lock);
  external().make.swap(made);
}

base::Result<std::unique_ptr<Optimizer>> make_optimizer(const OptimizerSpec& spec,
                                                        const std::vector<Slice>& slices) {
  if (is_native_optimizer(spec.kind)) return make_native_optimizer(spec, slices);
  std::shared_ptr<const OptimizerFactory> make;
  {
    std::lock_guard<SpinLock> lock(external().lock);
    make = external().make;
  }
  if (make) return (*make)(spec, slices);
  return base::Error(base::ErrorCode::kUnsupported,
                     "no server optimizer '" + spec.kind +
                         "': use sgd, adam, adamw or adagrad, or set an external factory");
}

}  // namespace gearshift::ps
