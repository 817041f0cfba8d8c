#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "gearshift/base/bytes.h"
#include "gearshift/base/dtype.h"
#include "gearshift/base/result.h"
#include "gearshift/ps/layout.h"

namespace gearshift::ps {

/// Which rule updates the parameters, and what its numbers are called.
///
/// `hyper_names` fixes the order of the numbers that each step brings per param group: those of
/// torch.optim, with "betas.0", "betas.1" for tuples and 0/1 for booleans. The native rules know:
/// sgd: lr momentum dampening weight_decay nesterov maximize · adam, adamw: lr betas.0 betas.1 eps
/// weight_decay decoupled_weight_decay amsgrad maximize · adagrad: lr lr_decay weight_decay eps
/// initial_accumulator_value maximize. Names that a rule does not know are ignored; absent ones
/// take torch's defaults.
struct OptimizerSpec {
  std::string kind = "sgd";  ///< "sgd", "adam", "adamw", "adagrad", or an external rule's name
  std::vector<std::string> hyper_names;
  std::uint32_t param_groups = 1;
};

/// The numbers of one step: `values[g * hyper_names.size() + i]` is number i of param group g.
using HyperValues = std::vector<double>;

/// One segment to update: its parameter memory and its (averaged, clipped) gradient.
struct SegmentUpdate {
  std::uint32_t slice = 0;
  std::uint32_t segment = 0;  ///< index within the slice
  base::Bytes parameter;
  base::ConstBytes gradient;
};

/// An element-wise update rule with its state, for the slices of one shard (or, with all slices,
/// for a whole model on one worker). Not thread-safe: its owner serialises.
class Optimizer {
 public:
  virtual ~Optimizer() = default;

  /// Updates the segments given, and no others (parameters without a gradient keep their state).
  /// `lr_factor` multiplies every group's learning rate; of Adagrad the gradient, weight decay
  /// included: one push of N makes a step of that share, and its share of the sum of squares.
  /// (The sum would grow N times as fast as that of a synchronous step, whose mean of N gradients
  /// has a square of 1/N of theirs, and again N times for as many pushes.)
  virtual base::Status apply(std::span<const SegmentUpdate> updates, const HyperValues& hypers,
                             double lr_factor) = 0;
  /// Whether an update may come in parts, with one call of `apply` for each, as cheaply as at once.
  virtual bool takes_parts() const { return false; }

  /// Names of element-wise state ("exp_avg") and of scalar state per parameter ("step") that a
  /// segment has now; empty before its first update.
  virtual std::vector<std::string> tensor_names(std::uint32_t slice,
                                                std::uint32_t segment) const = 0;
  virtual std::map<std::string, double> scalars(std::uint32_t slice,
                                                std::uint32_t segment) const = 0;
  /// Copies state out of, or into, a segment. The views have the segment's size and dtype.
  virtual base::Status read_tensor(std::uint32_t slice, std::uint32_t segment,
                                   const std::string& name, base::Bytes out) const = 0;
  virtual base::Status write_tensor(std::uint32_t slice, std::uint32_t segment,
                                    const std::string& name, base::ConstBytes in) = 0;
  virtual base::Status write_scalar(std::uint32_t slice, std::uint32_t segment,
                                    const std::string& name, double value) = 0;
  /// Forgets all state.
  virtual void reset() = 0;
};

/// Makes a native rule (kernels/optimizer.h). kUnsupported for a kind that is not native.
base::Result<std::unique_ptr<Optimizer>> make_native_optimizer(const OptimizerSpec& spec,
                                                               std::vector<Slice> slices);
bool is_native_optimizer(const std::string& kind);

/// Makes rules that the core does not have: set by the Python package, which runs any element-wise
/// torch.optim optimizer on the slices. Process-wide; set before servers start. Thread-safe.
using OptimizerFactory = std::function<base::Result<std::unique_ptr<Optimizer>>(
    const OptimizerSpec& spec, const std::vector<Slice>& slices)>;
void set_external_optimizer_factory(OptimizerFactory factory);
/// A native rule, else what the external factory makes, else kUnsupported.
base::Result<std::unique_ptr<Optimizer>> make_optimizer(const OptimizerSpec& spec,
                                                        const std::vector<Slice>& slices);

}  // namespace gearshift::ps
