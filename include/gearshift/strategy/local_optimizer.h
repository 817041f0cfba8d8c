#pragma once

#include <memory>
#include <vector>

#include "gearshift/base/result.h"
#include "gearshift/ps/optimizer.h"
#include "gearshift/strategy/replica.h"

namespace gearshift::strategy {

/// An optimizer for programs without a framework: a native rule (ps/optimizer.h) over the whole
/// model of one worker, which hands its state to servers and takes it back at a switch.
/// Not thread-safe: used by the task that makes the steps.
class LocalOptimizer final : public OptimizerBridge {
 public:
  /// `phantom`: the replica is one (see ReplicaOptions), and so is the state. kUnsupported for a
  /// rule that is not native.
  static base::Result<std::unique_ptr<LocalOptimizer>> create(
      const std::vector<ParameterSpec>& parameters, const ps::OptimizerSpec& spec,
      bool phantom = false);

  /// Updates the replica's parameters with a gradient (`present[p]`). Under All-Reduce, between
  /// `backward_end` and `step`. kInvalidArgument for a replica of other parameters, or flags of
  /// another number.
  base::Status apply(Replica& replica, const std::vector<bool>& present,
                     const ps::HyperValues& hypers);

  /// Collective: the state of rank `root` on all ranks. After a `Replica::join` that says
  /// `steps_differ`, unless a server is in force then.
  base::Status take_over(group::Group& workers, base::Rank root);

  base::Result<std::vector<ps::StateEntry>> export_state() override;
  base::Status import_state(std::vector<ps::StateEntry> state) override;

 private:
  LocalOptimizer(const std::vector<ParameterSpec>& parameters, std::unique_ptr<ps::Optimizer> rule,
                 bool phantom);
  std::vector<ParameterSpec> parameters_;
  std::unique_ptr<ps::Optimizer> rule_;
  bool phantom_;
};

}  // namespace gearshift::strategy
