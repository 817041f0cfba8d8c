#include "gearshift/sim/workload.h"

#include <unordered_set>

#include "sim/check.h"

namespace gearshift::sim {
namespace {

/// Of a parameter, in elements: sums of bytes stay far from overflow.
constexpr std::int64_t kMaxElements = std::int64_t{1} << 40;

constexpr double kMostLogSpread = 10;

void check_shape(const std::vector<std::int64_t>& shape, Checks& checks) {
  std::int64_t elements = 1;
  for (std::size_t d = 0; d < shape.size(); ++d) {
    const std::string key = "shape[" + std::to_string(d) + "]";
    if (shape[d] <= 0) {
      checks.fail(key, "a dimension must be positive, this is " + std::to_string(shape[d]));
      return;
    }
    if (shape[d] > kMaxElements / elements) {
      checks.fail(key, "the parameter has more than 2^40 elements");
      return;
    }
    elements *= shape[d];
  }
}

void check_parameters(const Workload& workload, Checks& checks) {
  std::unordered_set<std::string_view> names;
  for (std::size_t i = 0; i < workload.parameters.size() && !checks.failed(); ++i) {
    const WorkloadParameter& parameter = workload.parameters[i];
    checks.at("parameters", i);
    if (parameter.name.empty()) checks.fail("name", "a name must not be empty");
    if (!names.insert(parameter.name).second) {
      checks.fail("name", "\"" + parameter.name + "\" is the name of another one already");
    }
    check_shape(parameter.shape, checks);
    if (!base::is_floating(parameter.dtype)) {
      checks.fail("dtype", "only floating-point parameters can be trained, this is " +
                               std::string(base::to_string(parameter.dtype)));
    }
    checks.time("ready", parameter.ready_seconds);
    if (parameter.ready_seconds > workload.backward_seconds) {
      checks.fail("ready", "the gradient is ready at " + shown(parameter.ready_seconds) +
                               " s, after backward, which takes " +
                               shown(workload.backward_seconds) + " s");
    }
  }
}

}  // namespace

std::vector<strategy::ParameterSpec> Workload::specs() const {
  std::vector<strategy::ParameterSpec> specs;
  specs.reserve(parameters.size());
  for (const WorkloadParameter& parameter : parameters) {
    specs.push_back({parameter.name, parameter.shape, parameter.dtype, 0});
  }
  return specs;
}

std::size_t Workload::parameter_bytes() const {
  std::size_t bytes = 0;
  for (const strategy::ParameterSpec& spec : specs()) {
    bytes += spec.elements() * base::size_of(spec.dtype);
  }
  return bytes;
}

std::optional<Problem> find_problem(const Variability& variability) {
  Checks checks;
  checks.at("variability");
  // The mean of a logarithm's normal distribution is e^(spread^2 / 2) times its median.
  const bool of_logarithm = variability.kind == Variability::Kind::kLogNormal;
  checks.number("a spread", "spread", variability.spread, Bound::kNotNegative,
                of_logarithm ? Limits{0, kMostLogSpread} : Limits{0, kFactorLimits.most});
  if (variability.kind == Variability::Kind::kEmpirical && variability.factors.empty()) {
    checks.fail("factors", "\"empirical\" needs at least one factor");
  }
  for (std::size_t i = 0; i < variability.factors.size(); ++i) {
    const std::string key = "factors[" + std::to_string(i) + "]";
    checks.number("a factor", key.c_str(), variability.factors[i], Bound::kPositive, kFactorLimits);
  }
  return std::move(checks).problem();
}

std::optional<Problem> find_problem(const Workload& workload) {
  Checks checks;
  checks.number("a batch size", "batch_size", workload.batch_size, Bound::kPositive);
  checks.time("forward", workload.forward_seconds, Bound::kPositive);
  checks.time("backward", workload.backward_seconds, Bound::kPositive);
  checks.time("optimizer", workload.optimizer_seconds);
  checks.merge(find_problem(workload.variability));
  checks.at("parameters");
  if (workload.parameters.empty()) checks.fail("", "a workload needs at least one parameter");
  check_parameters(workload, checks);
  return std::move(checks).problem();
}

}  // namespace gearshift::sim
