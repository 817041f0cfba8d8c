#pragma once

#include <torch/csrc/autograd/engine.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "gearshift/torch/distribute.h"

/// What happens around backward. A round is an exchange of gradients: it begins with the first hook
/// that fires and ends in a callback of the engine, before backward() returns. Under local SGD
/// nothing travels in it, and gradients stay where they are. Part of distribute.h, not for users.
namespace gearshift::torch {

inline base::Status Distributed::batch(double samples) {
  GEARSHIFT_RETURN_IF_ERROR(usable());
  if (!(samples >= 0) || !std::isfinite(samples)) {
    return detail::invalid("batch(" + std::to_string(samples) +
                           "): a number of samples is finite and not negative");
  }
  next_ = samples;
  return take_writes();
}

inline void Distributed::raise_if_failed(const base::Status& status) {
  if (status) return;
  const base::ErrorCode code = status.error().code;
  if (code != base::ErrorCode::kInvalidArgument && code != base::ErrorCode::kUnsupported) {
    failed_ = status.error();
  }
  throw Failure(status.error());
}

/// A gradient of a backward comes to a parameter, and is not part of its grad() yet.
inline void Distributed::on_arrival() {
  if (in_backward_ || pending_ == 0) return;
  const ::torch::NoGradGuard no_grad;
  if (gradients_were_dropped()) pending_ = 0;
}

inline void Distributed::on_gradient(std::uint32_t index) {
  const bool makes_graph = ::torch::GradMode::is_enabled();
  const ::torch::NoGradGuard no_grad;
  if (!in_backward_) raise_if_failed(begin_backward());
  if (pending_ == 0 || is_local()) return;
  const ::torch::Tensor& gradient = parameters_[index].grad();
  const std::string& name = model_.trainables[index].value.name();
  if (!gradient.defined()) {
    raise_if_failed(base::Error(base::ErrorCode::kUnsupported,
                                "a hook took the gradient of '" + name +
                                    "' away within backward, before it was that of all ranks"));
  }
  if (makes_graph && gradient.requires_grad() && !is_own()) {
    raise_if_failed(base::Error(
        base::ErrorCode::kUnsupported,
        "backward with create_graph: the gradient of '" + name +
            "' becomes the mean over all ranks, through which no backward can go; "
            "torch::autograd::grad(), with create_graph, gives this rank's gradients, and "
            "backward() of what is made of them exchanges"));
  }
  take_in(index);
  given_[index] = true;
  raise_if_failed(replica_->ready(index));
}

inline base::Status Distributed::begin_backward() {
  GEARSHIFT_RETURN_IF_ERROR(usable());
  if (!next_) {
    return detail::invalid(
        "backward() on a distributed module without batch(): say before each how many samples it "
        "is on, its weight in the average over the ranks");
  }
  GEARSHIFT_RETURN_IF_ERROR(check_parameters());
  count_samples();
  GEARSHIFT_RETURN_IF_ERROR(begin_round());
  ::torch::autograd::Engine::get_default_engine().queue_callback([this] { on_backward_end(); });
  in_backward_ = true;
  return {};
}

inline void Distributed::count_samples() {
  pending_ += next_.value_or(0);
  next_.reset();
}

inline void Distributed::note_gradients() {
  seen_.clear();
  for (const ::torch::Tensor& p : parameters_) seen_.emplace_back(p.grad());
}

/// Whether what had been accumulated was thrown away by zero_grad(): all of it is undefined, or
/// zero by somebody's hand.
inline bool Distributed::gradients_were_dropped() const {
  for (std::size_t i = 0; i < seen_.size(); ++i) {
    const ::torch::Tensor& gradient = parameters_[i].grad();
    if (!present_[i] || !gradient.defined()) continue;
    if (seen_[i] == detail::Sight(gradient)) return false;
    if ((gradient.is_sparse() ? gradient.to_dense() : gradient).any().item<bool>()) return false;
  }
  return true;
}

/// Whether other tensors stand where the gradients of the latest round did.
inline bool Distributed::gradients_were_replaced() const {
  for (std::size_t i = 0; i < seen_.size(); ++i) {
    const ::torch::Tensor& gradient = parameters_[i].grad();
    if (!present_[i] || !gradient.defined()) continue;
    if (seen_[i].which == detail::Sight(gradient).which) return false;
  }
  return true;
}

/// Whether grad() is this rank's alone, so that it may be part of a graph. Not asked under local
/// SGD, where it always is.
inline bool Distributed::is_own() const { return uses_server() || session_.world_size() == 1; }

inline void Distributed::on_backward_end() {
  const ::torch::NoGradGuard no_grad;
  in_backward_ = false;
  raise_if_failed(end_round(false));
}

inline base::Status Distributed::begin_round() {
  latest_ = pending_;
  return replica_->backward_begin(pending_);
}

/// `settled`: nobody changes the gradients before the step.
inline base::Status Distributed::end_round(bool settled) {
  collect();
  if (!is_local()) GEARSHIFT_RETURN_IF_ERROR(bring_buffers());  // it wants them in rounds only
  GEARSHIFT_ASSIGN_OR_RETURN(const std::vector<bool> present,
                             replica_->backward_end(present_, settled));
  if (uses_server() || is_local()) {
    note_gradients();
  } else {
    hand_out(present);
    shared_ = present;
    show_buffers();
    pending_ = 0;
  }
  const bool is_first = !first_step_done_ && rounds_ == 0;
  if (is_first && !uses_server()) hash_of_first_ = hash_of_parameters();
  ++rounds_;
  return {};
}

/// Brings the gradients of parameters whose hook did not fire, and says who has one.
inline void Distributed::collect() {
  for (std::uint32_t i = 0; i < model_.trainables.size(); ++i) {
    present_[i] = pending_ > 0 && parameters_[i].grad().defined();
    if (present_[i] && !given_[i] && !is_local()) take_in(i);
    given_[i] = false;
  }
}

/// Copies a gradient to the core's memory, and lets grad() be there, if it can.
inline void Distributed::take_in(std::uint32_t index) {
  detail::Trainable& t = model_.trainables[index];
  if (t.is_home()) return;
  const bool has_graph = t.parameter().grad().requires_grad();
  const ::torch::Tensor gradient = t.parameter().grad().detach();
  t.gradient.copy_(gradient.is_sparse() ? gradient.to_dense() : gradient);
  if (!t.value.staged() && !(has_graph && is_own())) t.parameter().mutable_grad() = t.gradient;
}

/// Makes every grad() the mean over all ranks, or undefined where no rank has one.
inline void Distributed::hand_out(const std::vector<bool>& present) {
  for (std::size_t i = 0; i < model_.trainables.size(); ++i) {
    detail::Trainable& t = model_.trainables[i];
    ::torch::Tensor& grad = t.parameter().mutable_grad();
    if (!present[i]) {
      grad.reset();
    } else if (grad.defined() && grad.requires_grad() && is_own()) {
      continue;  // it is the mean, and has a graph
    } else if (!t.value.staged()) {
      grad = t.gradient;
    } else if (grad.defined() && !grad.is_sparse()) {
      grad.detach().copy_(t.gradient);
    } else {
      grad = ::torch::empty_like(t.parameter()).copy_(t.gradient);
    }
  }
}

/// Lets every grad() be what it is while the core's memory is used for others' gradients, or for
/// changes of parameters.
inline void Distributed::keep_gradients() {
  for (detail::Trainable& t : model_.trainables) {
    if (t.is_home()) t.parameter().mutable_grad() = t.gradient.clone();
  }
}

}  // namespace gearshift::torch
