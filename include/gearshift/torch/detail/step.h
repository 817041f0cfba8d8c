#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "gearshift/base/log.h"
#include "gearshift/kernels/reduce.h"
#include "gearshift/torch/distribute.h"

/// Steps, joins and checkpoints. Part of distribute.h, not for users.
namespace gearshift::torch {

inline base::Result<strategy::StepReport> Distributed::step(const ::torch::Tensor& loss,
                                                            std::optional<std::int64_t> epoch) {
  if (!loss.defined() || loss.numel() != 1) {
    return detail::invalid("step(loss) takes this rank's mean loss, a tensor of one element, not " +
                           (loss.defined() ? detail::describe(loss) : std::string("none")));
  }
  return make_step(loss.item<double>(), epoch);
}

inline base::Result<strategy::StepReport> Distributed::step(double loss,
                                                            std::optional<std::int64_t> epoch) {
  return make_step(loss, epoch);
}

inline base::Result<strategy::StepReport> Distributed::step() { return make_step({}, {}); }

inline base::Result<strategy::StepReport> Distributed::make_step(
    std::optional<double> loss, std::optional<std::int64_t> epoch) {
  const ::torch::NoGradGuard no_grad;
  GEARSHIFT_RETURN_IF_ERROR(usable());
  GEARSHIFT_RETURN_IF_ERROR(check_groups());
  GEARSHIFT_RETURN_IF_ERROR(check_frozen());
  GEARSHIFT_RETURN_IF_ERROR(check_parameters());
  if (uses_server() && bridge_.has_state()) {
    return detail::invalid(
        "the servers have the optimizer's state, and it was given some here: leave out "
        "optimizer.step(), which step() replaces, and load checkpoints by load_optimizer()");
  }
  GEARSHIFT_RETURN_IF_ERROR(prepare_gradients());
  const bool by_server = uses_server();
  check_losses(loss.has_value(), epoch.has_value());
  strategy::StepInput input;
  input.skip = is_local() && latest_ == 0;  // its gradient is NaN, often
  if (!by_server) {
    check_first_step();
    if (!input.skip) optimizer_.step();
  }
  const bool leaves_them = is_local() ? !replica_->averages_next() : !hands_over();
  if (!leaves_them) GEARSHIFT_RETURN_IF_ERROR(prepare_parameters());
  if (!leaves_them && is_local()) GEARSHIFT_RETURN_IF_ERROR(bring_buffers());
  input.loss = std::numeric_limits<double>::quiet_NaN();  // to the core: none
  if (loss && latest_ > 0) {
    input.loss = std::isnan(*loss) ? std::numeric_limits<double>::infinity() : *loss;
  }
  input.epoch = epoch.value_or(0);
  input.hypers = detail::numbers_now(optimizer_, rule_);
  input.clip_norm = clip_norm_;
  auto report = replica_->step(input);
  if (!report) return report;
  if (by_server || report->averaged) show_parameters();
  const bool met = report->switched && !uses_server();  // the workers, and have one rank's
  if (met || report->averaged) show_buffers();
  settle(report->averaged || report->switched);
  return report;
}

/// A round for gradients that were made without backward: behind a batch() of their own, or for
/// parameters that had none.
inline base::Status Distributed::prepare_gradients() {
  if (rounds_ == 0 && !next_) {
    return detail::invalid("step() without batch() and backward() since the last one");
  }
  if (next_) {  // which no backward took
    if (gradients_were_replaced()) pending_ = 0;
    count_samples();
  } else if (!exchange_is_due()) {
    return {};
  }
  GEARSHIFT_RETURN_IF_ERROR(begin_round());
  return end_round(true);
}

/// Whether other parameters have gradients than in the latest round. What was changed in place
/// under a server the core finds by itself; what was replaced under All-Reduce is applied as it is,
/// for it is likely made of the mean, and under local SGD it is this rank's own affair.
inline bool Distributed::exchange_is_due() {
  if (is_local() || (uses_server() && latest_ == 0)) return false;
  for (std::uint32_t i = 0; i < model_.trainables.size(); ++i) {
    const bool has = parameters_[i].grad().defined();
    if (uses_server()) {
      if (has != present_[i]) return true;
      if (has) take_in(i);
    } else if (has && !shared_[i]) {
      pending_ = latest_;
      return true;
    }
  }
  return false;
}

/// What the program has written to the parameters since the last step goes to their keeper.
inline base::Status Distributed::prepare_parameters() {
  if (!uses_server()) {
    GEARSHIFT_RETURN_IF_ERROR(bring_parameters());
    return {};
  }
  const bool written = versions_now() != versions_;
  GEARSHIFT_ASSIGN_OR_RETURN(const bool replaced, bring_parameters());
  if (!written && !replaced && !replica_->parameters_written()) return {};
  return replica_->store_parameters();
}

inline base::Status Distributed::usable() const {
  if (failed_) return *failed_;
  if (stopped_) {
    return base::Error(base::ErrorCode::kClosed,
                       "stop() was called: the module and its optimizer are on their own");
  }
  if (!in_backward_) return {};
  return base::Error(base::ErrorCode::kAborted,
                     "the previous backward() of this module threw half-way, when parts of its "
                     "gradients may already have been exchanged: this job cannot go on");
}

inline base::Status Distributed::check_frozen() const {
  for (const auto& [name, p] : model_.frozen) {
    if (!p.requires_grad()) continue;
    return detail::invalid("parameter '" + name +
                           "' was frozen when the module was distributed, and requires a gradient "
                           "now, which would not travel: call stop() and distribute() again, on "
                           "all ranks");
  }
  return {};
}

inline base::Status Distributed::check_parameters() const {
  for (const detail::Trainable& t : model_.trainables) GEARSHIFT_RETURN_IF_ERROR(t.value.check());
  return {};
}

inline base::Result<bool> Distributed::bring_parameters() {
  bool any = false;
  for (detail::Trainable& t : model_.trainables) {
    GEARSHIFT_ASSIGN_OR_RETURN(const bool replaced, t.value.bring());
    any = any || replaced;
  }
  return any;
}

inline base::Status Distributed::bring_buffers() {
  for (detail::Mirror& b : model_.buffers) GEARSHIFT_RETURN_IF_ERROR(b.bring());
  return {};
}

/// After the core has written them; autograd must notice that saved values have changed.
inline void Distributed::show_parameters() {
  for (detail::Trainable& t : model_.trainables) {
    t.value.show();
    ::torch::autograd::impl::bump_version(t.parameter());
  }
}

inline void Distributed::show_buffers() {
  for (const detail::Mirror& b : model_.buffers) b.show();
}

/// After anything that may have moved parameters or optimizer state.
inline void Distributed::settle(bool averaged) {
  rounds_ = 0;
  pending_ = clip_norm_ = 0;
  next_.reset();
  if (is_local()) keep_gradients();  // their memory is needed for rounds
  fresh_ = is_local() && averaged;
  if (!uses_server()) return;
  bridge_.drop();
  versions_ = versions_now();
}

/// Under local SGD, before the first step after a round, a join or the end: a checkpoint, say, is
/// no change that should be rounded on its way, or that an outer optimizer should see; where there
/// is one, the core looks for it. What is written later is not equal on all ranks.
inline base::Status Distributed::take_writes() {
  if (!std::exchange(fresh_, false)) return {};
  const ::torch::NoGradGuard no_grad;
  GEARSHIFT_RETURN_IF_ERROR(bring_parameters());
  return replica_->store_parameters();
}

inline std::vector<std::int64_t> Distributed::versions_now() const {
  std::vector<std::int64_t> versions;
  for (const ::torch::Tensor& p : parameters_) versions.push_back(p._version());
  return versions;
}

inline std::uint64_t Distributed::hash_of_parameters() {
  std::uint64_t all = 0;
  for (std::uint32_t i = 0; i < parameters_.size(); ++i) {
    all = all * 31 + kernels::hash64(replica_->parameter(i));
  }
  return all;
}

/// Whoever calls optimizer.step() as well makes two steps, on all ranks alike. Said once, and only
/// said: some methods do write to parameters between backward and step.
inline void Distributed::check_first_step() {
  if (first_step_done_) return;
  first_step_done_ = true;
  if (hash_of_first_ && *hash_of_first_ != hash_of_parameters()) {
    GEARSHIFT_LOG_AT(kWarn, "torch",
                     "the parameters were changed between backward() and step(), which applies the "
                     "optimizer: leave out optimizer.step()");
  }
}

/// Says with the first step that a policy by losses will never fire.
inline void Distributed::check_losses(bool has_loss, bool has_epoch) {
  const auto* s = std::get_if<strategy::StrategySwitch>(&options_.strategy->kind);
  if (std::exchange(losses_checked_, true) || s == nullptr) return;
  if (session_.rank() != base::Rank(0)) return;
  const strategy::Policy* policy = s->policy.get();
  if (s->back && !policy->compares_epochs()) policy = s->back.get();
  if (!policy->compares_epochs() || (has_loss && has_epoch)) return;
  GEARSHIFT_LOG_AT(kWarn, "torch",
                   policy->name() + " will not fire: it compares the losses of epochs, and needs " +
                       "step(loss, epoch)");
}

inline base::Result<double> Distributed::clip_grad_norm(double max_norm) {
  const ::torch::NoGradGuard no_grad;
  GEARSHIFT_RETURN_IF_ERROR(usable());
  if (!(max_norm > 0)) return detail::invalid("clip_grad_norm takes a norm above 0");
  if (rounds_ == 0) return detail::invalid("clip_grad_norm() belongs between backward and step");
  if (!uses_server()) {
    GEARSHIFT_RETURN_IF_ERROR(prepare_gradients());
    return ::torch::nn::utils::clip_grad_norm_(parameters_, max_norm);
  }
  // The core takes numbers; an infinite one asks for the norm alone, as in libtorch.
  clip_norm_ = std::min(max_norm, std::numeric_limits<double>::max());
  double squares = 0;
  for (const ::torch::Tensor& p : parameters_) {
    if (!p.grad().defined()) continue;
    const double norm = p.grad().norm().item<double>();
    squares += norm * norm;
  }
  return std::sqrt(squares);
}

inline base::Status Distributed::join() { return gearshift::torch::join({this}); }

inline base::Status join(const std::vector<Distributed*>& several) {
  using Report = base::Result<strategy::Replica::JoinReport>;
  const ::torch::NoGradGuard no_grad;
  for (std::size_t i = 0; i < several.size(); ++i) {
    const auto earlier = several.begin() + static_cast<std::ptrdiff_t>(i);
    if (std::find(several.begin(), earlier, several[i]) == earlier) continue;
    return detail::invalid("join() was given the same module twice: each joins once");
  }
  for (Distributed* one : several) GEARSHIFT_RETURN_IF_ERROR(one->before_join());
  std::vector<std::optional<Report>> reports(several.size());
  const auto take_part = [&](std::size_t i) {
    const ::torch::NoGradGuard no_grad_here;
    reports[i] = several[i]->replica_->join([&] { several[i]->keep_gradients(); });
  };
  // Those that go on make the rounds of several modules in an order that is theirs.
  std::vector<std::unique_ptr<base::Task>> tasks;
  try {
    for (std::size_t i = 1; i < several.size(); ++i) {
      base::Scheduler& scheduler = several[i]->session_.workers().scheduler();
      tasks.push_back(scheduler.spawn("gs-join", [&take_part, i] { take_part(i); }));
    }
  } catch (const std::system_error& error) {
    const base::Error none(base::ErrorCode::kIo,
                           std::string("join of several modules: ") + error.what());
    several[0]->session_.fail(none);  // else those that have one would wait for all ranks' others
    return none;
  }
  if (!several.empty()) take_part(0);
  for (const auto& task : tasks) task->join();
  // What follows uses collectives that the modules share, so in one order on all ranks.
  base::Status refused;
  for (std::size_t i = 0; i < several.size(); ++i) {
    if (!*reports[i]) return reports[i]->error();
    const base::Status followed = several[i]->after_join(**reports[i]);
    if (followed) continue;
    if (followed.error().code != base::ErrorCode::kUnsupported) return followed;
    if (refused) refused = followed;  // on all ranks, and the others have joined
  }
  return refused;
}

inline base::Status Distributed::before_join() {
  GEARSHIFT_RETURN_IF_ERROR(usable());
  GEARSHIFT_RETURN_IF_ERROR(take_writes());
  GEARSHIFT_RETURN_IF_ERROR(prepare_parameters());
  return bring_buffers();
}

inline base::Status Distributed::after_join(const strategy::Replica::JoinReport& report) {
  show_parameters();
  show_buffers();
  // Of each rank's own state nothing is common under local SGD.
  const Take what = is_local() ? Take::kSettings : Take::kAll;
  const base::Status followed =
      report.steps_differ ? take_over_optimizer(report.root, what) : base::Status();
  settle();
  return followed;
}

inline base::Status Distributed::fetch_state() {
  GEARSHIFT_ASSIGN_OR_RETURN(std::vector<ps::StateEntry> state, replica_->fetch_state());
  return bridge_.import_state(std::move(state));
}

inline base::Status Distributed::save_optimizer(::torch::serialize::OutputArchive& archive) {
  const ::torch::NoGradGuard no_grad;
  const bool fetch = !stopped_ && uses_server();
  if (fetch) GEARSHIFT_RETURN_IF_ERROR(fetch_state());
  optimizer_.save(archive);
  if (fetch) bridge_.drop();
  GEARSHIFT_RETURN_IF_ERROR(fetch_outer());
  if (outer_.empty()) return {};
  ::torch::serialize::OutputArchive outer;
  for (std::size_t i = 0; i < outer_.size(); ++i) outer.write(std::to_string(i), outer_[i]);
  archive.write(kOuter, outer);
  return {};
}

/// Of local SGD's outer optimizer, per trained parameter; after stop() what it was then.
inline base::Status Distributed::fetch_outer() {
  if (stopped_) return {};
  outer_.clear();
  GEARSHIFT_ASSIGN_OR_RETURN(std::vector<ps::StateEntry> state, replica_->fetch_outer_state());
  for (std::size_t i = 0; i < state.size(); ++i) {
    const auto found = state[i].tensors.find(kOuterMomentum);
    if (found == state[i].tensors.end()) continue;
    outer_.resize(state.size());
    outer_[i] = detail::tensor_on(found->second.view(), parameters_[i], nullptr).clone();
  }
  for (std::size_t i = 0; i < outer_.size(); ++i) {
    if (!outer_[i].defined())
      outer_[i] =
          ::torch::zeros_like(parameters_[i], ::torch::TensorOptions().device(::torch::kCPU));
  }
  return {};
}

/// Nothing in the archive: zeros.
inline base::Status Distributed::store_outer(::torch::serialize::InputArchive& archive) {
  std::vector<ps::StateEntry> state(parameters_.size());
  ::torch::serialize::InputArchive outer;
  if (archive.try_read(kOuter, outer)) {
    for (std::size_t i = 0; i < state.size(); ++i) {
      ::torch::Tensor momentum;
      const bool found = outer.try_read(std::to_string(i), momentum);
      if (!found || momentum.sizes() != parameters_[i].sizes()) {
        return detail::invalid("the outer momentum in this archive is of other parameters than '" +
                               model_.trainables[i].value.name() + "'");
      }
      momentum = momentum.to(::torch::kCPU, parameters_[i].scalar_type()).contiguous();
      if (momentum.numel() == 0) continue;
      state[i].tensors[kOuterMomentum] = base::Buffer::copy_of(detail::bytes_of(momentum));
    }
  }
  return replica_->store_outer_state(state);
}

inline base::Status Distributed::load_optimizer(::torch::serialize::InputArchive& archive) {
  const ::torch::NoGradGuard no_grad;
  optimizer_.state().clear();
  optimizer_.load(archive);
  if (!stopped_) GEARSHIFT_RETURN_IF_ERROR(store_outer(archive));
  if (stopped_ || !uses_server()) return {};
  GEARSHIFT_ASSIGN_OR_RETURN(const std::vector<ps::StateEntry> state, bridge_.export_state());
  bridge_.drop();
  return replica_->store_state(state);
}

inline base::Status Distributed::stop() {
  if (stopped_) return {};
  const ::torch::NoGradGuard no_grad;
  GEARSHIFT_RETURN_IF_ERROR(usable());
  if (uses_server()) {
    GEARSHIFT_RETURN_IF_ERROR(prepare_parameters());
    GEARSHIFT_RETURN_IF_ERROR(bring_buffers());
    GEARSHIFT_RETURN_IF_ERROR(replica_->finish());
    show_parameters();
    show_buffers();
    GEARSHIFT_RETURN_IF_ERROR(fetch_state());
  } else if (is_local()) {
    GEARSHIFT_RETURN_IF_ERROR(take_writes());
    GEARSHIFT_RETURN_IF_ERROR(prepare_parameters());
    GEARSHIFT_RETURN_IF_ERROR(bring_buffers());
    GEARSHIFT_RETURN_IF_ERROR(replica_->finish());
    show_parameters();
    show_buffers();
  }
  GEARSHIFT_RETURN_IF_ERROR(fetch_outer());
  GEARSHIFT_RETURN_IF_ERROR(replica_->stop());
  remove_hooks();
  stopped_ = true;
  return {};
}

}  // namespace gearshift::torch
