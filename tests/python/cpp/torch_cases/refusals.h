#pragma once

#include <limits>

#include "toy.h"

/// What is refused, and what stays as it was. Included once.
namespace cases {
namespace {

using Code = gs::base::ErrorCode;

template <typename T>
void expect_refused(const gs::base::Result<T>& result, Code code, const std::string& text) {
  expect(!result.ok(), "'" + text + "' expected, and all went well");
  expect_error(result.error(), code, text);
}
void expect_refused(const gs::base::Status& status, Code code, const std::string& text) {
  expect(!status.ok(), "'" + text + "' expected, and all went well");
  expect_error(status.error(), code, text);
}

struct OwnRule final : torch::optim::SGD {
  using SGD::SGD;
};

CASE(optimizers_that_cannot_be) {
  const auto distribute = [&](Net& net, torch::optim::Optimizer& o, const gs::Strategy& strategy) {
    return gs::torch::distribute(session, *net, o, {strategy});
  };
  Net net = make_net();
  torch::optim::LBFGS lbfgs(net->parameters());
  expect_refused(distribute(net, lbfgs, all_reduce()), Code::kUnsupported, "by a closure");
  torch::optim::RMSprop rmsprop(net->parameters());
  expect_refused(distribute(net, rmsprop, server()), Code::kUnsupported,
                 "no optimizer like torch::optim::RMSprop: use torch::optim::SGD, Adam, AdamW or");
  OwnRule own(net->parameters(), torch::optim::SGDOptions(0.1));
  expect_refused(distribute(net, own, there_and_back()), Code::kUnsupported, "OwnRule");
  torch::optim::SGD some({net->first->weight}, torch::optim::SGDOptions(0.1));
  expect_refused(distribute(net, some, server()), Code::kInvalidArgument,
                 "'first.bias' requires a gradient, and no param group");
  Net other = make_net();
  torch::optim::SGD foreign(other->parameters(), torch::optim::SGDOptions(0.1));
  expect_refused(distribute(net, foreign, all_reduce()), Code::kInvalidArgument,
                 "parameters that are not the module's");
}

struct Complex : torch::nn::Module {
  Complex() { register_parameter("w", torch::zeros({2}, torch::kComplexDouble)); }
};

CASE(modules_that_cannot_be) {
  const auto distribute = [&](Net& net) {
    torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(0.1));
    return gs::torch::distribute(session, *net, optimizer, {all_reduce()});
  };
  Net tied = make_net();
  tied->last->weight.set_data(tied->first->weight.detach().flatten().narrow(0, 0, 14).view({2, 7}));
  expect_refused(distribute(tied), Code::kInvalidArgument,
                 "'first.weight' and 'last.weight' are two that share memory");
  Net frozen = make_net();
  for (Tensor& p : frozen->parameters()) p.set_requires_grad(false);
  expect_refused(distribute(frozen), Code::kInvalidArgument, "no parameter that requires");
  Complex strange;
  torch::optim::SGD optimizer(strange.parameters(), torch::optim::SGDOptions(0.1));
  expect_refused(gs::torch::distribute(session, strange, optimizer), Code::kUnsupported,
                 "parameter 'w' is ComplexDouble[2] on cpu: only dense ones");
}

CASE(backward_throws_what_it_lacks) {
  Trained trained(session, {all_reduce()});
  const Batch b = batch_of(trained.rank, 0);
  try {
    loss_of(trained.net, b).backward();
    expect(false, "a backward without batch()");
  } catch (const gs::torch::Failure& failure) {
    expect_error(failure.error(), Code::kInvalidArgument, "without batch()");
    expect(failure.exit_code() == 1, "a program's own fault");
  }
  trained.step(b);  // and that was all
  or_throw(trained.distributed->stop());
}

CASE(steps_say_what_they_lack) {
  Traits traits;
  traits.frozen = true;
  Trained trained(session, {server()}, "adam", traits);
  Distributed& d = *trained.distributed;
  const auto bad = Code::kInvalidArgument;
  expect_refused(d.step(), bad, "without batch() and backward()");
  expect_refused(d.batch(-1), bad, "finite and not negative");
  expect_refused(d.batch(std::numeric_limits<double>::quiet_NaN()), bad, "finite");
  expect_refused(d.clip_grad_norm(1), bad, "between backward and step");
  trained.step(batch_of(trained.rank, 0));
  or_throw(d.batch(3));
  trained.optimizer->zero_grad();
  const Batch b = batch_of(trained.rank, 1);
  loss_of(trained.net, b).backward();
  expect_refused(d.step(b.y), bad, "a tensor of one element, not Double[");
  expect_refused(d.clip_grad_norm(0), bad, "above 0");
  trained.net->first->bias.set_requires_grad(true);
  expect_refused(d.step(), bad, "'first.bias' was frozen when");
  trained.net->first->bias.set_requires_grad(false);
  trained.net->last->bias.set_data(torch::zeros({3}, torch::kDouble));
  expect_refused(d.step(), bad, "'last.bias' became Double[3] on cpu after distribute()");
  trained.net->last->bias.set_data(torch::zeros({2}, torch::kDouble));
  or_throw(d.step());
  or_throw(d.stop());
  or_throw(d.stop());
  expect_refused(d.step(), Code::kClosed, "on their own");
}

/// It would train on gradients that are rounded to the type that the module had.
CASE(a_cast_after_distribute_is_refused) {
  for (const auto stage : {gs::torch::Stage::kAuto, gs::torch::Stage::kForce}) {
    gs::torch::Options options{all_reduce()};
    options.stage = stage;
    Trained trained(session, options);
    trained.step(batch_of(trained.rank, 0));
    const Batch b = batch_of(trained.rank, 1);
    trained.net->to(torch::kFloat);
    or_throw(trained.distributed->batch(b.samples()));
    trained.optimizer->zero_grad();
    const char* const text = "became Float[7, 5] on cpu after distribute(), where Double[7, 5]";
    try {
      torch::mse_loss(trained.net->forward(b.x.to(torch::kFloat)), b.y.to(torch::kFloat))
          .backward();
      expect(false, "a backward of another type");
    } catch (const gs::torch::Failure& failure) {
      expect_error(failure.error(), Code::kInvalidArgument, text);
    }
    trained.net->to(torch::kDouble);
    trained.optimizer->zero_grad();
    loss_of(trained.net, b).backward();
    trained.net->to(torch::kFloat);
    expect_refused(trained.distributed->step(), Code::kInvalidArgument, text);
    trained.net->to(torch::kDouble);
    or_throw(trained.distributed->step());
    or_throw(trained.distributed->stop());
  }
}

CASE(exit_codes_tell_victims) {
  for (const Code code : {Code::kPeerLost, Code::kAborted, Code::kClosed, Code::kTimeout}) {
    expect(gs::torch::Failure({code, "x"}).exit_code() == 75, gs::base::to_string(code));
  }
  for (const Code code : {Code::kInvalidArgument, Code::kMismatch, Code::kProtocol, Code::kIo}) {
    expect(gs::torch::Failure({code, "x"}).exit_code() == 1, gs::base::to_string(code));
  }
}

CASE(second_steps_are_noticed) {
  Trained served(session, {server()}, "adam");
  const Batch b = batch_of(served.rank, 0);
  or_throw(served.distributed->batch(b.samples()));
  loss_of(served.net, b).backward();
  served.optimizer->step();
  expect_refused(served.distributed->step(), Code::kInvalidArgument, "leave out optimizer.step()");
  served.optimizer->state().clear();
  or_throw(served.distributed->step());
  or_throw(served.distributed->stop());
  for (const gs::Strategy& strategy : {all_reduce(), local_sgd(2)}) {
    Trained trained(session, {strategy}, "plain_sgd");
    or_throw(trained.distributed->batch(b.samples()));
    loss_of(trained.net, b).backward();
    trained.optimizer->step();
    or_throw(trained.distributed->step());  // which warns
  }
}

CASE(ranks_that_differ_are_told_so) {
  if (session.world_size() == 1) return;
  Net net = make_net();
  const double rate = session.rank().value == 1 ? 0.5 : 0.1;
  torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(rate));
  expect_refused(gs::torch::distribute(session, *net, optimizer, {all_reduce()}), Code::kMismatch,
                 "torch::optim::SGD with groups of 6 and settings 0.");

  Trained trained(session, {all_reduce()}, "plain_sgd");
  if (trained.rank == 1) trained.optimizer->param_groups()[0].options().set_lr(0.3);
  trained.step(batch_of(trained.rank, 0));
  or_throw(trained.distributed->batch(1));
  try {
    loss_of(trained.net, batch_of(trained.rank, 1)).backward();
    expect(false, "rates that differ");
  } catch (const gs::torch::Failure& failure) {
    expect_error(failure.error(), Code::kMismatch, "different optimizer settings");
  }
  expect_refused(trained.distributed->step(), Code::kMismatch, "different optimizer settings");
}

CASE(a_backward_that_throws_half_way_ends_training) {
  if (session.world_size() > 1) return;
  Trained trained(session, {all_reduce()});
  trained.net->first->bias.register_hook(
      [](const Tensor&) -> Tensor { throw std::runtime_error("mine"); });
  or_throw(trained.distributed->batch(2));
  try {
    loss_of(trained.net, batch_of(0, 0)).backward();
    expect(false, "an exception of the program's");
  } catch (const std::runtime_error& error) {
    expect(std::string(error.what()).find("mine") != std::string::npos, error.what());
  }
  expect_refused(trained.distributed->batch(2), Code::kAborted, "threw half-way");
}

struct Counter final : torch::autograd::PostAccumulateGradHook {
  explicit Counter(int& n) : calls(n) {}
  void operator()(const Tensor&) override { ++calls; }
  int& calls;
};

CASE(hooks_of_others_stay) {
  Net net = make_net();
  int calls = 0;
  const Tensor& p = net->first->weight;
  torch::autograd::impl::set_post_acc_grad_hooks(p, std::make_unique<Counter>(calls));
  torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(0.1));
  const auto distributed =
      or_throw(gs::torch::distribute(session, *net, optimizer, {all_reduce()}));
  or_throw(distributed->batch(1));
  loss_of(net, batch_of(0, 0)).backward();
  or_throw(distributed->step());
  expect(calls == 1, "while distributed");
  or_throw(distributed->stop());
  loss_of(net, batch_of(0, 0)).backward();
  expect(calls == 2, "afterwards");
}

CASE(a_module_is_distributed_once_at_a_time) {
  Net net = make_net();
  torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(0.1));
  const auto distribute = [&] {
    return gs::torch::distribute(session, *net, optimizer, {all_reduce()});
  };
  auto distributed = or_throw(distribute());
  expect_refused(distribute(), Code::kInvalidArgument,
                 "'first.weight' is distributed already: call stop()");
  or_throw(distributed->batch(1));
  loss_of(net, batch_of(0, 0)).backward();
  or_throw(distributed->step());
  or_throw(distributed->stop());
  distributed = or_throw(distribute());
  or_throw(distributed->stop());
}

/// A hook that passes on to the one that was there before.
struct Wrapper final : torch::autograd::PostAccumulateGradHook {
  explicit Wrapper(std::unique_ptr<PostAccumulateGradHook> before) : former(std::move(before)) {}
  void operator()(const Tensor& p) override { (*former)(p); }
  std::unique_ptr<PostAccumulateGradHook> former;
};

CASE(hooks_may_outlive_what_they_belong_to) {
  Trained trained(session, {all_reduce()});
  auto& slot = torch::autograd::impl::post_acc_grad_hooks(trained.net->first->weight);
  slot = std::make_unique<Wrapper>(std::move(slot));
  trained.step(batch_of(trained.rank, 0));
  or_throw(trained.distributed->stop());
  loss_of(trained.net, batch_of(0, 0)).backward();
  trained.distributed.reset();
  loss_of(trained.net, batch_of(0, 0)).backward();
}

CASE(tensors_outlive_the_session) {
  Net net = make_net();
  OptimizerPtr optimizer = optimizers().at("sgd")(net);
  for (const gs::Strategy& strategy : {all_reduce(), server()}) {
    const auto own = or_throw(gs::Session::create({}));
    const auto distributed = or_throw(gs::torch::distribute(*own, *net, *optimizer, {strategy}));
    or_throw(distributed->batch(1));
    loss_of(net, batch_of(0, 0)).backward();
    or_throw(distributed->step());
  }
  optimizer->zero_grad(false);
  loss_of(net, batch_of(0, 0)).backward();
  optimizer->step();
  expect(everything(net).isfinite().all().item<bool>(), "finite");
}

}  // namespace
}  // namespace cases
