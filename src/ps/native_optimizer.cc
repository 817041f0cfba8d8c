#include <array>
#include <cstring>
#include <functional>
#include <optional>
#include <string_view>
#include <utility>

#include "gearshift/kernels/optimizer.h"
#include "gearshift/ps/optimizer.h"
#include "ps/fill.h"
#include "ps/layout_check.h"

namespace gearshift::ps {
namespace {

using base::Buffer;
using base::Bytes;
using base::ConstBytes;
using base::Error;
using base::ErrorCode;

constexpr std::size_t kMostTensors = 3;

/// State of one segment. A tensor is absent until its first use; the step is that of its parameter,
/// which other segments of the parameter, here or in other shards, count alike.
struct State {
  std::int64_t step = 0;
  std::array<std::optional<Buffer>, kMostTensors> tensors;
};

/// The numbers of one param group, by name.
class Hypers {
 public:
  Hypers(const std::vector<std::string>& names, std::span<const double> values)
      : names_(names), values_(values) {}

  double get(std::string_view name, double otherwise) const {
    for (std::size_t i = 0; i < names_.size(); ++i) {
      if (names_[i] == name) return values_[i];
    }
    return otherwise;
  }
  bool flag(std::string_view name) const { return get(name, 0) != 0; }

 private:
  const std::vector<std::string>& names_;
  std::span<const double> values_;
};

/// What one update works on.
struct Target {
  base::DType dtype;
  Bytes parameter;
  ConstBytes gradient;
  State& state;

  /// Tensor i of the state, made with `initial` in each element when absent.
  Bytes tensor(std::size_t i, double initial = 0) const {
    std::optional<Buffer>& memory = state.tensors[i];
    if (!memory) {
      const bool phantom = base::is_phantom(parameter);
      memory = phantom ? Buffer::phantom(parameter.size()) : Buffer(parameter.size());
      fill(dtype, memory->view(), initial);
    }
    return memory->view();
  }
};

void update_sgd(const Target& t, const Hypers& h, double lr_factor) {
  kernels::SgdHyper hyper;
  hyper.lr = h.get("lr", hyper.lr) * lr_factor;
  hyper.momentum = h.get("momentum", 0);
  hyper.dampening = h.get("dampening", 0);
  hyper.weight_decay = h.get("weight_decay", 0);
  hyper.nesterov = h.flag("nesterov");
  hyper.maximize = h.flag("maximize");
  const bool first = !t.state.tensors[0];
  const Bytes buffer = hyper.momentum == 0 ? Bytes() : t.tensor(0);
  kernels::sgd(t.dtype, t.parameter, t.gradient, buffer, first, hyper);
}

void update_adam(const Target& t, const Hypers& h, double lr_factor, bool decoupled) {
  kernels::AdamHyper hyper;
  hyper.lr = h.get("lr", hyper.lr) * lr_factor;
  hyper.beta1 = h.get("betas.0", hyper.beta1);
  hyper.beta2 = h.get("betas.1", hyper.beta2);
  hyper.eps = h.get("eps", hyper.eps);
  hyper.decoupled = h.get("decoupled_weight_decay", decoupled ? 1 : 0) != 0;
  hyper.weight_decay = h.get("weight_decay", decoupled ? 1e-2 : 0);
  hyper.amsgrad = h.flag("amsgrad");
  hyper.maximize = h.flag("maximize");
  const Bytes largest = hyper.amsgrad ? t.tensor(2) : Bytes();
  kernels::adam(t.dtype, t.parameter, t.gradient, t.tensor(0), t.tensor(1), largest, ++t.state.step,
                hyper);
}

void update_adagrad(const Target& t, const Hypers& h, double lr_factor) {
  kernels::AdagradHyper hyper;
  hyper.lr = h.get("lr", hyper.lr);
  hyper.gradient_factor = lr_factor;
  hyper.lr_decay = h.get("lr_decay", 0);
  hyper.eps = h.get("eps", hyper.eps);
  hyper.weight_decay = h.get("weight_decay", 0);
  hyper.maximize = h.flag("maximize");
  const Bytes sum = t.tensor(0, h.get("initial_accumulator_value", 0));
  kernels::adagrad(t.dtype, t.parameter, t.gradient, sum, ++t.state.step, hyper);
}

/// A rule and how torch calls its state.
struct Rule {
  const char* kind;
  std::array<const char*, kMostTensors> tensors;  ///< nullptr: none
  bool counts_steps;
  void (*update)(const Target&, const Hypers&, double lr_factor);
};

constexpr Rule kRules[] = {
    {"sgd", {"momentum_buffer", nullptr, nullptr}, false, update_sgd},
    {"adam",
     {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"},
     true,
     [](const Target& t, const Hypers& h, double f) { update_adam(t, h, f, false); }},
    {"adamw",
     {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"},
     true,
     [](const Target& t, const Hypers& h, double f) { update_adam(t, h, f, true); }},
    {"adagrad", {"sum", nullptr, nullptr}, true, update_adagrad},
};

const Rule* find_rule(const std::string& kind) {
  for (const Rule& rule : kRules) {
    if (rule.kind == kind) return &rule;
  }
  return nullptr;
}

class NativeOptimizer final : public Optimizer {
 public:
  NativeOptimizer(const Rule& rule, OptimizerSpec spec, std::vector<Slice> slices)
      : rule_(rule), spec_(std::move(spec)), slices_(std::move(slices)) {
    reset();
  }

  bool takes_parts() const override { return true; }
  base::Status apply(std::span<const SegmentUpdate> updates, const HyperValues& hypers,
                     double lr_factor) override {
    const std::size_t names = spec_.hyper_names.size();
    if (hypers.size() != names * spec_.param_groups) {
      return Error(ErrorCode::kInvalidArgument, std::to_string(hypers.size()) +
                                                    " optimizer settings instead of " +
                                                    std::to_string(names * spec_.param_groups));
    }
    for (const SegmentUpdate& u : updates) {
      const Segment& segment = slices_[u.slice].segments[u.segment];
      const Hypers numbers(spec_.hyper_names,
                           std::span(hypers).subspan(segment.param_group * names, names));
      const Target target{slices_[u.slice].dtype, u.parameter, u.gradient,
                          states_[u.slice][u.segment]};
      rule_.update(target, numbers, lr_factor);
    }
    return {};
  }

  std::vector<std::string> tensor_names(std::uint32_t slice, std::uint32_t segment) const override {
    std::vector<std::string> names;
    const State& state = states_[slice][segment];
    for (std::size_t i = 0; i < kMostTensors; ++i) {
      if (state.tensors[i]) names.emplace_back(rule_.tensors[i]);
    }
    return names;
  }

  std::map<std::string, double> scalars(std::uint32_t slice, std::uint32_t segment) const override {
    const State& state = states_[slice][segment];
    // State that the optimizer is born with counts no step yet, and is not complete without.
    if (!rule_.counts_steps || (state.step == 0 && !state.tensors[0])) return {};
    return {{"step", static_cast<double>(state.step)}};
  }

  base::Status read_tensor(std::uint32_t slice, std::uint32_t segment, const std::string& name,
                           Bytes out) const override {
    const auto index = tensor_index(name);
    const State& state = states_[slice][segment];
    if (!index || !state.tensors[*index]) return unknown(name);
    const ConstBytes tensor = state.tensors[*index]->view();
    if (tensor.size() != out.size()) return wrong_size(name, out.size(), tensor.size());
    if (tensor.data() != nullptr && out.data() != nullptr) {
      std::memcpy(out.data(), tensor.data(), tensor.size());
    }
    return {};
  }

  base::Status write_tensor(std::uint32_t slice, std::uint32_t segment, const std::string& name,
                            ConstBytes in) override {
    const auto index = tensor_index(name);
    if (!index) return unknown(name);
    const std::size_t size = bytes_of_segment(slices_[slice], slices_[slice].segments[segment]);
    if (in.size() != size) return wrong_size(name, in.size(), size);
    states_[slice][segment].tensors[*index] = Buffer::copy_of(in);
    return {};
  }

  base::Status write_scalar(std::uint32_t slice, std::uint32_t segment, const std::string& name,
                            double value) override {
    if (!rule_.counts_steps || name != "step") return unknown(name);
    states_[slice][segment].step = static_cast<std::int64_t>(value);
    return {};
  }

  void reset() override {
    states_.clear();
    states_.resize(slices_.size());
    for (std::size_t i = 0; i < slices_.size(); ++i) states_[i].resize(slices_[i].segments.size());
  }

 private:
  std::optional<std::size_t> tensor_index(const std::string& name) const {
    for (std::size_t i = 0; i < kMostTensors; ++i) {
      if (rule_.tensors[i] != nullptr && name == rule_.tensors[i]) return i;
    }
    return std::nullopt;
  }
  Error unknown(const std::string& name) const {
    return {ErrorCode::kInvalidArgument, spec_.kind + " has no state '" + name + "'"};
  }
  Error wrong_size(const std::string& name, std::size_t got, std::size_t wanted) const {
    return {ErrorCode::kInvalidArgument, "state '" + name + "' of " + std::to_string(got) +
                                             " bytes where " + std::to_string(wanted) +
                                             " are expected"};
  }

  const Rule& rule_;
  const OptimizerSpec spec_;
  const std::vector<Slice> slices_;
  std::vector<std::vector<State>> states_;  ///< [slice][segment]
};

}  // namespace

bool is_native_optimizer(const std::string& kind) { return find_rule(kind) != nullptr; }

base::Result<std::unique_ptr<Optimizer>> make_native_optimizer(const OptimizerSpec& spec,
                                                               std::vector<Slice> slices) {
  const Rule* rule = find_rule(spec.kind);
  if (rule == nullptr) {
    return Error(ErrorCode::kUnsupported,
                 "no native rule '" + spec.kind + "': there are sgd, adam, adamw and adagrad");
  }
  GEARSHIFT_RETURN_IF_ERROR(check_slices(slices, spec.param_groups));
  return std::unique_ptr<Optimizer>(
      std::make_unique<NativeOptimizer>(*rule, spec, std::move(slices)));
}

}  // namespace gearshift::ps
