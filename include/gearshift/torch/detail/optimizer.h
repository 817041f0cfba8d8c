#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <memory>
#include <sstream>
#include <string>
#include <tuple>
#include <type_traits>
#include <typeinfo>
#include <utility>
#include <vector>

#include "gearshift/base/bytes.h"
#include "gearshift/base/result.h"
#include "gearshift/ps/client.h"
#include "gearshift/ps/optimizer.h"
#include "gearshift/strategy/replica.h"
#include "gearshift/torch/detail/model.h"

/// torch::optim's optimizers as servers know them. Part of distribute.h, not for users.
namespace gearshift::torch::detail {

namespace optim = ::torch::optim;

// What differs between the optimizers: their numbers, and what their state is called.

inline std::vector<double> numbers_of(const optim::SGDOptions& o) {
  return {o.lr(), o.momentum(), o.dampening(), o.weight_decay(), o.nesterov() ? 1.0 : 0.0};
}
inline std::vector<double> numbers_of(const optim::AdagradOptions& o) {
  return {o.lr(), o.lr_decay(), o.weight_decay(), o.initial_accumulator_value(), o.eps()};
}
template <typename AdamLike>
std::vector<double> numbers_of(const AdamLike& o) {
  return {o.lr(),  std::get<0>(o.betas()), std::get<1>(o.betas()),
          o.eps(), o.weight_decay(),       o.amsgrad() ? 1.0 : 0.0};
}

template <typename F>
void for_each_tensor(optim::SGDParamState& s, F&& f) {
  f("momentum_buffer", s.momentum_buffer());
}
template <typename F>
void for_each_tensor(optim::AdagradParamState& s, F&& f) {
  f("sum", s.sum());
}
template <typename AdamLike, typename F>
void for_each_tensor(AdamLike& s, F&& f) {
  f("exp_avg", s.exp_avg());
  f("exp_avg_sq", s.exp_avg_sq());
  f("max_exp_avg_sq", s.max_exp_avg_sq());
}

inline std::int64_t* steps_of(optim::SGDParamState&) { return nullptr; }
template <typename Counting>
std::int64_t* steps_of(Counting& s) {
  return &s.step();
}

/// State of one parameter for the servers: tensors as bytes of the parameter's type.
template <typename State>
ps::StateEntry take_out(optim::OptimizerParamState& state, const Tensor& parameter) {
  ps::StateEntry entry;
  auto& known = static_cast<State&>(state);
  for_each_tensor(known, [&](const char* name, const Tensor& value) {
    if (!value.defined()) return;
    const Tensor flat = value.detach().to(::torch::kCPU, parameter.scalar_type()).contiguous();
    entry.tensors.emplace(name, base::Buffer::copy_of(bytes_of(flat)));
  });
  if (const std::int64_t* steps = steps_of(known)) {
    entry.scalars.emplace("step", static_cast<double>(*steps));
  }
  return entry;
}

template <typename State>
std::unique_ptr<optim::OptimizerParamState> put_in(const ps::StateEntry& entry,
                                                   const Tensor& parameter) {
  auto made = std::make_unique<State>();
  for_each_tensor(*made, [&](const char* name, Tensor& value) {
    const auto found = entry.tensors.find(name);
    if (found == entry.tensors.end()) return;
    value = ::torch::empty(parameter.sizes(), parameter.options().requires_grad(false));
    if (value.numel() == 0) return;
    const base::ConstBytes bytes = found->second.view();
    value.copy_(::torch::from_blob(const_cast<std::byte*>(bytes.data()), parameter.sizes(),
                                   value.options().device(::torch::kCPU)));
  });
  const auto steps = entry.scalars.find("step");
  if (steps_of(*made) != nullptr && steps != entry.scalars.end()) {
    *steps_of(*made) = static_cast<std::int64_t>(steps->second);
  }
  return made;
}

/// An optimizer that servers have, too.
struct Rule {
  const char* kind;
  std::vector<std::string> names;  ///< of its numbers
  const std::type_info& type;
  std::vector<double> (*numbers)(const optim::OptimizerOptions&);
  ps::StateEntry (*take)(optim::OptimizerParamState&, const Tensor&);
  std::unique_ptr<optim::OptimizerParamState> (*put)(const ps::StateEntry&, const Tensor&);
};

template <typename Optimizer, typename Options, typename State>
Rule make_rule(const char* kind, std::vector<std::string> names) {
  return {
      kind,
      std::move(names),
      typeid(Optimizer),
      [](const optim::OptimizerOptions& o) { return numbers_of(static_cast<const Options&>(o)); },
      take_out<State>,
      put_in<State>};
}

/// The rule of an optimizer, not of a subclass, whose step may be another; null for others.
inline const Rule* rule_of(const optim::Optimizer& optimizer) {
  static const std::vector<std::string> adam{"lr",  "betas.0",      "betas.1",
                                             "eps", "weight_decay", "amsgrad"};
  static const Rule rules[] = {
      make_rule<optim::SGD, optim::SGDOptions, optim::SGDParamState>(
          "sgd", {"lr", "momentum", "dampening", "weight_decay", "nesterov"}),
      make_rule<optim::Adam, optim::AdamOptions, optim::AdamParamState>("adam", adam),
      make_rule<optim::AdamW, optim::AdamWOptions, optim::AdamWParamState>("adamw", adam),
      make_rule<optim::Adagrad, optim::AdagradOptions, optim::AdagradParamState>(
          "adagrad", {"lr", "lr_decay", "weight_decay", "initial_accumulator_value", "eps"})};
  for (const Rule& rule : rules) {
    if (typeid(optimizer) == rule.type) return &rule;
  }
  return nullptr;
}

/// The numbers of all param groups as they are now; of an optimizer without a rule, its rates.
inline ps::HyperValues numbers_now(const optim::Optimizer& optimizer, const Rule* rule) {
  ps::HyperValues values;
  for (const optim::OptimizerParamGroup& group : optimizer.param_groups()) {
    if (rule != nullptr) {
      const std::vector<double> numbers = rule->numbers(group.options());
      values.insert(values.end(), numbers.begin(), numbers.end());
      continue;
    }
    try {
      values.push_back(group.options().get_lr());
    } catch (const c10::Error&) {  // options of a class of the user's, which have none
      return {};
    }
  }
  return values;
}

/// The state of an optimizer's parameters, on its way to servers and back.
class StateBridge final : public strategy::OptimizerBridge {
 public:
  StateBridge(optim::Optimizer& optimizer, const Rule* rule, const std::vector<Trainable>& trained)
      : optimizer_(optimizer), rule_(rule), trained_(trained) {}

  base::Result<std::vector<ps::StateEntry>> export_state() override {
    std::vector<ps::StateEntry> entries(trained_.size());
    for (std::size_t i = 0; i < trained_.size(); ++i) {
      const auto found = optimizer_.state().find(key(i));
      if (!travels(i) || found == optimizer_.state().end()) continue;
      entries[i] = rule_->take(*found->second, trained_[i].parameter());
    }
    return entries;
  }

  base::Status import_state(std::vector<ps::StateEntry> entries) override {
    for (std::size_t i = 0; i < trained_.size() && i < entries.size(); ++i) {
      if (!travels(i)) continue;
      optimizer_.state().erase(key(i));
      if (entries[i].tensors.empty() && entries[i].scalars.empty()) continue;
      optimizer_.state()[key(i)] = rule_->put(entries[i], trained_[i].parameter());
    }
    return {};
  }

  /// The servers have the state now.
  void drop() {
    for (std::size_t i = 0; i < trained_.size(); ++i) {
      if (travels(i)) optimizer_.state().erase(key(i));
    }
  }

  /// Whether somebody gave the optimizer state, which under servers it has not.
  bool has_state() const {
    for (std::size_t i = 0; i < trained_.size(); ++i) {
      if (travels(i) && optimizer_.state().count(key(i)) > 0) return true;
    }
    return false;
  }

 private:
  /// No shard has a part of a parameter without elements.
  bool travels(std::size_t i) const { return trained_[i].parameter().numel() > 0; }
  void* key(std::size_t i) const { return trained_[i].parameter().unsafeGetTensorImpl(); }

  optim::Optimizer& optimizer_;
  const Rule* rule_;
  const std::vector<Trainable>& trained_;
};

/// While it lives, and if it is to be so, the optimizer has no state; then that which it had.
class WithoutState {
 public:
  WithoutState(optim::Optimizer& optimizer, bool so) : optimizer_(optimizer), so_(so) {
    if (so_) std::swap(kept_, optimizer_.state());
  }
  ~WithoutState() {
    if (so_) std::swap(kept_, optimizer_.state());
  }
  WithoutState(const WithoutState&) = delete;
  WithoutState& operator=(const WithoutState&) = delete;

 private:
  optim::Optimizer& optimizer_;
  const bool so_;
  std::remove_reference_t<decltype(optimizer_.state())> kept_;
};

/// An optimizer with its state and settings, for another process; nothing of one whose class does
/// not save any.
inline std::string pack(const optim::Optimizer& optimizer) {
  ::torch::serialize::OutputArchive archive;
  optimizer.save(archive);
  std::stringstream stream;
  archive.save_to(stream);
  ::torch::serialize::InputArchive saved;
  saved.load_from(stream);
  return saved.keys().empty() ? std::string() : stream.str();
}

inline void unpack(optim::Optimizer& optimizer, const std::string& packed) {
  std::istringstream stream(packed);
  ::torch::serialize::InputArchive archive;
  archive.load_from(stream);
  optimizer.state().clear();
  optimizer.load(archive);
}

}  // namespace gearshift::torch::detail
