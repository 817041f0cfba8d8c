#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "gearshift/base/dtype.h"
#include "gearshift/base/result.h"
#include "gearshift/strategy/plan.h"

namespace gearshift::sim {

/// By what factor a worker's computation takes longer or shorter in one step; the mean is 1.
struct Variability {
  enum class Kind : unsigned char {
    kConstant,   ///< always 1
    kNormal,     ///< normal with standard deviation `spread`, not below 0.05
    kLogNormal,  ///< log-normal, `spread` is the standard deviation of the logarithm
    kEmpirical,  ///< one of `factors`, divided by their mean
  };
  Kind kind = Kind::kConstant;
  double spread = 0;
  std::vector<double> factors{};

  bool operator==(const Variability&) const = default;
};

/// A trainable parameter and when, after backward began, its gradient is final.
struct WorkloadParameter {
  std::string name;
  std::vector<std::int64_t> shape;
  base::DType dtype = base::DType::kF32;
  double ready_seconds = 0;

  bool operator==(const WorkloadParameter&) const = default;
};

/// What one worker does in one step, on a host of speed 1. Times in seconds.
struct Workload {
  std::string name;
  int batch_size = 1;  ///< samples per worker and step
  double forward_seconds = 0;
  double backward_seconds = 0;   ///< until the last gradient; not less than any `ready_seconds`
  double optimizer_seconds = 0;  ///< the worker's own update of the whole model (All-Reduce)
  Variability variability{};     ///< of forward and backward together
  std::vector<WorkloadParameter> parameters;  ///< in the model's order

  std::vector<strategy::ParameterSpec> specs() const;
  std::size_t parameter_bytes() const;
  double compute_seconds() const { return forward_seconds + backward_seconds; }
  bool operator==(const Workload&) const = default;
};

/// Reads a workload from a TOML file (docs/simulation.md describes it). Errors name file, line and
/// key: kInvalidArgument, or kIo when the file cannot be read.
base::Result<Workload> load_workload(const std::string& path);
/// The same from text; `name` stands for the file in errors.
base::Result<Workload> parse_workload(const std::string& text, const std::string& name);

}  // namespace gearshift::sim
