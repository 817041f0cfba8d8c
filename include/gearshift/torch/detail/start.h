#pragma once

#include <c10/util/Type.h>

#include <algorithm>
#include <limits>
#include <set>
#include <span>
#include <sstream>
#include <string>
#include <typeinfo>
#include <utility>
#include <vector>

#include "gearshift/collectives/collectives.h"
#include "gearshift/kernels/reduce.h"
#include "gearshift/torch/distribute.h"

/// How a module becomes distributed, and what ranks take over from each other. Part of
/// distribute.h, not for users.
namespace gearshift::torch {

/// Beside a hook that the parameter had before. It may outlive its owner: as the former one of a
/// hook that somebody has set since.
class Distributed::Hook final : public ::torch::autograd::PostAccumulateGradHook {
 public:
  using Slot = std::unique_ptr<::torch::autograd::PostAccumulateGradHook>;

  Hook(std::shared_ptr<Distributed* const> owner, std::uint32_t index, Slot former)
      : owner_(std::move(owner)), index_(index), former_(std::move(former)) {}
  /// The one that a parameter has, if it is of this kind.
  static Hook* in(const Slot& slot) { return dynamic_cast<Hook*>(slot.get()); }

  void operator()(const ::torch::autograd::Variable& parameter) override {
    if (former_) (*former_)(parameter);
    if (!is_over()) (*owner_)->on_gradient(index_);
  }
  bool is_over() const { return *owner_ == nullptr; }
  Slot take_former() { return std::move(former_); }

 private:
  const std::shared_ptr<Distributed* const> owner_;
  std::uint32_t index_;
  Slot former_;
};

inline Distributed::Distributed(runtime::Session& session, ::torch::optim::Optimizer& optimizer,
                                Options options, detail::Model model)
    : session_(session),
      optimizer_(optimizer),
      options_(std::move(options)),
      rule_(detail::rule_of(optimizer)),
      model_(std::move(model)),
      bridge_(optimizer, rule_, model_.trainables),
      present_(model_.trainables.size(), false),
      shared_(model_.trainables.size(), false),
      given_(model_.trainables.size(), false),
      groups_(detail::groups_of(optimizer)) {
  for (const detail::Trainable& t : model_.trainables) parameters_.push_back(t.parameter());
}

inline base::Status Distributed::open() {
  const ::torch::NoGradGuard no_grad;
  GEARSHIFT_RETURN_IF_ERROR(check_alone());
  GEARSHIFT_RETURN_IF_ERROR(check_optimizer());
  strategy::ReplicaOptions wanted;
  wanted.parameters = detail::specs_of(model_);
  wanted.strategy = *options_.strategy;
  wanted.fingerprint = fingerprint();
  for (const detail::Mirror& b : model_.buffers) wanted.buffer_bytes += detail::place_of(b);
  if (hands_over_state()) {
    const auto groups = static_cast<std::uint32_t>(optimizer_.param_groups().size());
    wanted.optimizer = ps::OptimizerSpec{rule_->kind, rule_->names, groups};
    wanted.bridge = &bridge_;
  }
  GEARSHIFT_ASSIGN_OR_RETURN(replica_, session_.distribute(std::move(wanted)));
  GEARSHIFT_RETURN_IF_ERROR(share_frozen());
  GEARSHIFT_RETURN_IF_ERROR(share_optimizer_state());
  adopt_memory();
  GEARSHIFT_RETURN_IF_ERROR(replica_->start());
  show_parameters();
  show_buffers();
  install_hooks();
  settle();
  return {};
}

inline base::Status Distributed::check_alone() const {
  for (const detail::Trainable& t : model_.trainables) {
    const Hook* const hook = Hook::in(::torch::autograd::impl::post_acc_grad_hooks(t.parameter()));
    if (hook == nullptr || hook->is_over()) continue;
    return detail::invalid("parameter '" + t.value.name() +
                           "' is distributed already: call stop() on what distribute() returned "
                           "for it, or let it go, before the next one");
  }
  return {};
}

inline base::Status Distributed::check_optimizer() const {
  const std::string name = c10::demangle(typeid(optimizer_).name());
  if (dynamic_cast<const ::torch::optim::LBFGS*>(&optimizer_) != nullptr) {
    return base::Error(base::ErrorCode::kUnsupported,
                       name +
                           " evaluates the loss several times per step, by a closure that would "
                           "have to be that of all ranks: use another optimizer, or Python, "
                           "where it works under All-Reduce");
  }
  if (hands_over_state() && rule_ == nullptr) {
    const bool to_servers = may_have_server();
    return base::Error(base::ErrorCode::kUnsupported,
                       (to_servers ? "servers have no optimizer like " + name
                                   : "a switch to or from local SGD hands the optimizer's state "
                                     "over, and does not know that of " +
                                         name) +
                           ": use torch::optim::SGD, Adam, AdamW or Adagrad (no subclass, which "
                           "may step in another way), or the AllReduce strategy" +
                           (to_servers ? "" : " or LocalSgd by itself"));
  }
  if (!may_have_server()) return {};
  for (const detail::Trainable& t : model_.trainables) {
    if (t.owned) continue;
    return detail::invalid("parameter '" + t.value.name() +
                           "' requires a gradient, and no param group of the optimizer has it: "
                           "servers cannot train it; freeze it, or give it to the optimizer");
  }
  return {};
}

/// Under servers the param groups stay as they were; a parameter that is not the module's would
/// drift apart under All-Reduce, too. Frozen ones may come and go.
inline base::Status Distributed::check_groups() const {
  const detail::Groups now = detail::groups_of(optimizer_);
  if (now == groups_) return {};
  std::vector<::torch::Tensor> all = parameters_;
  std::set<const void*> trained;
  for (const ::torch::Tensor& p : all) trained.insert(p.unsafeGetTensorImpl());
  for (const ::torch::optim::OptimizerParamGroup& group : optimizer_.param_groups()) {
    all.insert(all.end(), group.params().begin(), group.params().end());
  }
  for (const ::torch::Tensor& p : all) {
    const void* const id = p.unsafeGetTensorImpl();
    const auto is = now.find(id), was = groups_.find(id);
    const bool same =
        is == now.end() ? was == groups_.end() : was != groups_.end() && is->second == was->second;
    if (same || !(p.requires_grad() || p.grad().defined())) continue;
    if (!may_have_server() && trained.count(id) > 0) continue;
    return base::Error(base::ErrorCode::kUnsupported,
                       "parameters were put into other param groups, taken out of them, or added, "
                       "after distribute(), of which servers, or other ranks, would not know: "
                       "call stop(), change the groups, and distribute() again, on all ranks");
  }
  return {};
}

/// What must be equal on all ranks besides trainable parameters and strategy.
inline std::string Distributed::fingerprint() const {
  std::ostringstream others;
  for (const auto& [name, p] : model_.frozen) others << name << p.scalar_type() << p.sizes() << ';';
  for (const detail::Mirror& b : model_.buffers) {
    others << b.name() << b.tensor().scalar_type() << b.tensor().sizes() << ';';
  }
  const std::string all = others.str();
  std::ostringstream text;
  text.precision(17);
  text << "libtorch " << TORCH_VERSION_MAJOR << '.' << TORCH_VERSION_MINOR
       << ", frozen parameters and buffers " << std::hex
       << kernels::hash64(base::bytes_of(std::span(all.data(), all.size()))) << std::dec << ", "
       << c10::demangle(typeid(optimizer_).name()) << " with groups of";
  for (const auto& group : optimizer_.param_groups()) text << ' ' << group.params().size();
  text << " and settings";
  for (const double number : detail::numbers_now(optimizer_, rule_)) text << ' ' << number;
  return text.str();
}

inline void Distributed::adopt_memory() {
  const std::shared_ptr<const void> owner = replica_->memory();
  for (std::uint32_t i = 0; i < model_.trainables.size(); ++i) {
    detail::Trainable& t = model_.trainables[i];
    t.value.move_to(replica_->parameter(i), owner);
    t.gradient = detail::tensor_on(replica_->gradient(i), t.parameter(), owner);
  }
  std::size_t offset = 0;
  for (detail::Mirror& b : model_.buffers) {
    b.move_to(base::slice(replica_->buffers(), offset, b.tensor().nbytes()), owner);
    offset += detail::place_of(b);
  }
}

inline void Distributed::install_hooks() {
  for (std::uint32_t i = 0; i < model_.trainables.size(); ++i) {
    auto& slot = ::torch::autograd::impl::post_acc_grad_hooks(parameters_[i]);
    slot = std::make_unique<Hook>(self_, i, std::move(slot));
    if (!may_have_server() && !may_be_local()) continue;
    arrivals_.push_back(parameters_[i].register_hook([self = self_](const ::torch::Tensor&) {
      if (*self != nullptr) (*self)->on_arrival();
    }));
  }
}

inline void Distributed::remove_hooks() {
  *self_ = nullptr;
  for (const ::torch::Tensor& p : parameters_) {
    auto& slot = ::torch::autograd::impl::post_acc_grad_hooks(p);
    for (Hook* hook = Hook::in(slot); hook != nullptr && hook->is_over(); hook = Hook::in(slot)) {
      slot = hook->take_former();
    }
  }
  for (std::size_t i = 0; i < arrivals_.size(); ++i) parameters_[i].remove_hook(arrivals_[i]);
  arrivals_.clear();
}

/// An error of a collective, as the failure contract has it.
inline base::Status Distributed::told(const base::Status& status) const {
  if (status) return status;
  return session_.explain(status.error());
}

/// Rank 0's frozen parameters for all.
inline base::Status Distributed::share_frozen() {
  if (session_.world_size() == 1) return {};
  for (const auto& [name, p] : model_.frozen) {
    if (p.numel() == 0) continue;
    const ::torch::Tensor data = p.detach().to(::torch::kCPU).contiguous().clone();
    collectives::Options options;
    options.label = "broadcast of '" + name + "'";
    GEARSHIFT_RETURN_IF_ERROR(told(collectives::broadcast(
        session_.workers(), detail::bytes_of(data), base::Rank(0), options)));
    p.detach().copy_(data);
  }
  return {};
}

/// Rank 0's, when anybody has some (from a checkpoint).
inline base::Status Distributed::share_optimizer_state() {
  if (session_.world_size() == 1) return {};
  auto entries = static_cast<std::int64_t>(optimizer_.state().size());
  GEARSHIFT_RETURN_IF_ERROR(
      told(collectives::all_reduce(session_.workers(), base::writable_bytes_of(entries),
                                   base::DType::kI64, base::ReduceOp::kMax)));
  return entries > 0 ? take_over_optimizer(base::Rank(0), Take::kWhatIsSaved) : base::Status();
}

/// Collective: the optimizer's state and settings, or its settings alone, become those of `root`,
/// if its class saves them; a state that it does not is kUnsupported, where `what` is kAll.
inline base::Status Distributed::take_over_optimizer(base::Rank root, Take what) {
  constexpr std::uint64_t kUnsaved = std::numeric_limits<std::uint64_t>::max();
  collectives::Options options;
  options.label = "optimizer of rank " + std::to_string(root.value);
  std::string packed;
  if (session_.rank() == root) {
    // Of a class of the program's nobody knows what it saves where it has none.
    const detail::WithoutState bare(optimizer_, what == Take::kSettings && rule_ != nullptr);
    packed = detail::pack(optimizer_);
  }
  std::uint64_t size = packed.empty() && !optimizer_.state().empty() ? kUnsaved : packed.size();
  GEARSHIFT_RETURN_IF_ERROR(told(
      collectives::broadcast(session_.workers(), base::writable_bytes_of(size), root, options)));
  if (size == kUnsaved && what == Take::kAll) {
    return base::Error(base::ErrorCode::kUnsupported,
                       "ranks made different numbers of steps, and " +
                           c10::demangle(typeid(optimizer_).name()) +
                           " saves nothing of its state for those that made fewer: override "
                           "save() and load(), or give all ranks as many batches");
  }
  if (size == kUnsaved || size == 0) return {};
  packed.resize(size);
  GEARSHIFT_RETURN_IF_ERROR(told(collectives::broadcast(
      session_.workers(), std::as_writable_bytes(std::span(packed.data(), packed.size())), root,
      options)));
  if (session_.rank() == root) return {};
  const detail::WithoutState own(optimizer_, what == Take::kSettings);
  detail::unpack(optimizer_, packed);
  return {};
}

}  // namespace gearshift::torch
