#include "gearshift/strategy/local_optimizer.h"

#include <string>
#include <utility>

#include "strategy/state_sharing.h"

namespace gearshift::strategy {
base::Result<std::unique_ptr<LocalOptimizer>> LocalOptimizer::create(
    const std::vector<ParameterSpec>& parameters, const ps::OptimizerSpec& spec, bool phantom) {
  // Every parameter is a slice with one segment.
  std::vector<ps::Slice> slices;
  for (std::uint32_t p = 0; p < parameters.size(); ++p) {
    const std::size_t n = parameters[p].elements();
    slices.push_back({p,
                      parameters[p].dtype,
                      0,
                      n * base::size_of(parameters[p].dtype),
                      {{p, parameters[p].param_group, 0, 0, n}}});
  }
  GEARSHIFT_ASSIGN_OR_RETURN(auto rule, ps::make_native_optimizer(spec, std::move(slices)));
  return std::unique_ptr<LocalOptimizer>(new LocalOptimizer(parameters, std::move(rule), phantom));
}

LocalOptimizer::LocalOptimizer(const std::vector<ParameterSpec>& parameters,
                               std::unique_ptr<ps::Optimizer> rule, bool phantom)
    : parameters_(parameters), rule_(std::move(rule)), phantom_(phantom) {}

base::Status LocalOptimizer::apply(Replica& replica, const std::vector<bool>& present,
                                   const ps::HyperValues& hypers) {
  const std::vector<ParameterSpec>& others = replica.plan().parameters;
  bool same = others.size() == parameters_.size() && present.size() == parameters_.size();
  for (std::size_t p = 0; same && p < parameters_.size(); ++p) {
    same = others[p].elements() == parameters_[p].elements() &&
           others[p].dtype == parameters_[p].dtype;
  }
  if (!same) {
    return base::Error(base::ErrorCode::kInvalidArgument,
                       "the optimizer was made for " + std::to_string(parameters_.size()) +
                           " parameters, the replica has " + std::to_string(others.size()) +
                           (others.size() == parameters_.size() ? " others" : "") + ", and " +
                           std::to_string(present.size()) + " flags were given");
  }
  std::vector<ps::SegmentUpdate> updates;
  for (std::uint32_t p = 0; p < parameters_.size(); ++p) {
    if (present[p]) updates.push_back({p, 0, replica.parameter(p), replica.gradient(p)});
  }
  return rule_->apply(updates, hypers, 1);
}

base::Status LocalOptimizer::take_over(group::Group& workers, base::Rank root) {
  std::vector<ps::StateEntry> mine;
  if (workers.rank() == root) {
    GEARSHIFT_ASSIGN_OR_RETURN(mine, export_state());
  }
  GEARSHIFT_ASSIGN_OR_RETURN(
      std::vector<ps::StateEntry> state,
      broadcast_state(workers, parameters_, std::move(mine), root, phantom_));
  return workers.rank() == root ? base::Status() : import_state(std::move(state));
}

base::Result<std::vector<ps::StateEntry>> LocalOptimizer::export_state() {
  std::vector<ps::StateEntry> state(parameters_.size());
  for (std::uint32_t p = 0; p < parameters_.size(); ++p) {
    const std::size_t bytes = parameters_[p].elements() * base::size_of(parameters_[p].dtype);
    for (const std::string& name : rule_->tensor_names(p, 0)) {
      base::Buffer tensor = phantom_ ? base::Buffer::phantom(bytes) : base::Buffer(bytes);
      GEARSHIFT_RETURN_IF_ERROR(rule_->read_tensor(p, 0, name, tensor.view()));
      state[p].tensors[name] = std::move(tensor);
    }
    state[p].scalars = rule_->scalars(p, 0);
  }
  return state;
}

base::Status LocalOptimizer::import_state(std::vector<ps::StateEntry> state) {
  rule_->reset();
  for (std::uint32_t p = 0; p < state.size(); ++p) {
    for (const auto& [name, tensor] : state[p].tensors) {
      GEARSHIFT_RETURN_IF_ERROR(rule_->write_tensor(p, 0, name, tensor.view()));
    }
    for (const auto& [name, value] : state[p].scalars) {
      GEARSHIFT_RETURN_IF_ERROR(rule_->write_scalar(p, 0, name, value));
    }
  }
  return {};
}

}  // namespace gearshift::strategy
