#pragma once

#include <algorithm>
#include <sstream>

#include "refusals.h"
#include "toy.h"

/// What programs do around steps: several modules, optimizers of their own, gradients and
/// parameters by hand. Included once.
namespace cases {
namespace {

/// A constraint on all parameters (a WGAN's) is there after the last step, too.
CASE(what_is_written_after_the_last_step_counts) {
  for (const gs::Strategy& strategy : {all_reduce(), server()}) {
    Trained trained(session, {strategy});
    Alone alone;
    const auto clamp = [&](double bound) {
      const torch::NoGradGuard no_grad;
      for (Net net : {trained.net, alone.net}) {
        for (Tensor& p : net->parameters()) p.clamp_(-bound, bound);
      }
    };
    for (int s = 0; s < 3; ++s) {
      trained.step(batch_of(trained.rank, s));
      alone.step(of_all(session.world_size(), s));
    }
    clamp(0.1);
    or_throw(trained.distributed->join());
    expect_close(everything(trained.net), everything(alone.net), strategy.to_string() + " joined");
    clamp(0.05);
    or_throw(trained.distributed->stop());
    expect_close(everything(trained.net), everything(alone.net), strategy.to_string() + " stopped");
  }
}

/// In whatever way, and also where all gradients are zero before they are dropped.
CASE(dropped_gradients_weigh_nothing) {
  for (const auto stage : {gs::torch::Stage::kAuto, gs::torch::Stage::kForce}) {
    for (const bool to_none : {true, false}) {
      gs::torch::Options options;
      options.strategy = server();
      options.stage = stage;
      Trained trained(session, options);
      Alone alone;
      for (int s = 0; s < 4; ++s) {
        trained.optimizer->zero_grad(to_none);
        or_throw(trained.distributed->batch(trained.rank == 0 ? 100 : 1));
        const Tensor loss = loss_of(trained.net, batch_of(0, 0));
        (s == 3 ? loss * 0 : loss).backward();
        trained.step(batch_of(trained.rank, s), false, to_none);
        alone.step(of_all(session.world_size(), s));
      }
      expect_close(everything(trained.net), everything(alone.net),
                   std::string(to_none ? "to none" : "to zero") +
                       (stage == gs::torch::Stage::kForce ? ", staged" : ""));
      or_throw(trained.distributed->stop());
    }
  }
}

/// The first of two backward passes has a gradient of zero, which is one.
CASE(gradients_of_zero_weigh_as_others) {
  const int world = session.world_size();
  Trained trained(session, {server()}, "plain_sgd");
  Alone alone("plain_sgd");
  const Batch mine = batch_of(trained.rank, 0);
  trained.optimizer->zero_grad();
  or_throw(trained.distributed->batch(10 * trained.rank));
  (loss_of(trained.net, mine) * 0).backward();
  or_throw(trained.distributed->batch(mine.samples()));
  loss_of(trained.net, mine).backward();
  or_throw(trained.distributed->step());
  Tensor sum = torch::zeros({}, torch::kDouble);
  double total = 0;
  for (int r = 0; r < world; ++r) {
    const Batch b = batch_of(r, 0);
    sum = sum + loss_of(alone.net, b) * (b.samples() + 10 * r);
    total += b.samples() + 10 * r;
  }
  alone.optimizer->zero_grad();
  (sum / total).backward();
  alone.optimizer->step();
  expect_close(everything(trained.net), everything(alone.net), "zeros");
  or_throw(trained.distributed->stop());
}

/// A parameter without a gradient on any rank is given one: it is the mean that is applied.
CASE(gradients_made_after_backward_travel) {
  Traits traits;
  traits.unused = true;
  const int world = session.world_size();
  for (const gs::Strategy& strategy : {all_reduce(), server()}) {
    for (const bool clips : {false, true}) {
      Trained trained(session, {strategy}, "plain_sgd", traits);
      Alone alone("plain_sgd", traits);
      const auto give = [](Net& net, double value) {
        const Tensor& p = net->named_parameters()["unused.weight"];
        p.mutable_grad() = torch::full_like(p, value);
      };
      const Batch mine = batch_of(trained.rank, 0), all = of_all(world, 0);
      or_throw(trained.distributed->batch(mine.samples()));
      loss_of(trained.net, mine).backward();
      loss_of(alone.net, all).backward();
      give(trained.net, trained.rank);
      double mean = 0;
      for (int r = 0; r < world; ++r) mean += r * batch_of(r, 0).samples() / all.samples();
      give(alone.net, mean);
      if (clips) {
        or_throw(trained.distributed->clip_grad_norm(0.05));
        torch::nn::utils::clip_grad_norm_(alone.net->parameters(), 0.05);
      }
      or_throw(trained.distributed->step());
      alone.optimizer->step();
      expect_close(everything(trained.net), everything(alone.net), strategy.to_string());
      or_throw(trained.distributed->stop());
    }
  }
}

/// What a backward has left is looked at, and others take its place.
CASE(gradients_made_after_others_were_dropped_travel) {
  const int world = session.world_size();
  for (const gs::Strategy& strategy : {all_reduce(), server()}) {
    Trained trained(session, {strategy}, "plain_sgd");
    Alone alone("plain_sgd");
    const auto give = [](Net& net, double value) {
      for (Tensor& p : net->parameters()) p.mutable_grad() = torch::full_like(p, value);
    };
    or_throw(trained.distributed->batch(10 * (world - trained.rank)));
    loss_of(trained.net, batch_of(trained.rank, 0)).backward();
    trained.optimizer->zero_grad();
    or_throw(trained.distributed->batch(batch_of(trained.rank, 0).samples()));
    give(trained.net, trained.rank);
    or_throw(trained.distributed->step());
    double mean = 0;
    for (int r = 0; r < world; ++r) {
      mean += r * batch_of(r, 0).samples() / of_all(world, 0).samples();
    }
    give(alone.net, mean);
    alone.optimizer->step();
    expect_close(everything(trained.net), everything(alone.net), strategy.to_string());
    or_throw(trained.distributed->stop());
  }
}

/// Two modules in one loop, of which ranks have different numbers of batches.
CASE(several_modules_join_together) {
  using gs::ps::Consistency;
  const int world = session.world_size();
  for (const gs::Strategy& strategy : {all_reduce(), server(), there_and_back()}) {
    Trained one(session, {strategy}, "adam"), two(session, {strategy}, "sgd");
    Alone first("adam"), second("sgd");
    for (int epoch = 0; epoch < 2; ++epoch) {
      const auto batches = [&](int rank) { return epoch == 0 ? 3 + 2 * rank : 5 - rank; };
      for (int s = 0; s < batches(one.rank); ++s) {
        one.step(batch_of(one.rank, s));
        two.step(batch_of(two.rank, s + 20));
      }
      or_throw(gs::torch::join({one.distributed.get(), two.distributed.get()}));
      for (int s = 0; s < std::max(batches(0), batches(world - 1)); ++s) {
        std::vector<Batch> parts, others;
        for (int r = 0; r < world; ++r) {
          if (s >= batches(r)) continue;
          parts.push_back(batch_of(r, s));
          others.push_back(batch_of(r, s + 20));
        }
        first.step(joined(parts));
        second.step(joined(others));
      }
      const std::string when = strategy.to_string() + " after epoch " + std::to_string(epoch);
      expect_close(everything(one.net), everything(first.net), when);
      expect_close(everything(two.net), everything(second.net), when);
    }
    or_throw(one.distributed->stop());
    or_throw(two.distributed->stop());
  }
  or_throw(gs::torch::join({}));
}

struct OwnState final : torch::optim::OptimizerCloneableParamState<OwnState> {
  int steps = 0;
  void serialize(torch::serialize::OutputArchive& archive) const override {
    archive.write("steps", torch::tensor(steps));
  }
  void serialize(torch::serialize::InputArchive& archive) override {
    Tensor read;
    archive.read("steps", read);
    steps = read.item<int>();
  }
};

/// Steps that become smaller; whether it saves how far it is depends.
struct Slowing final : torch::optim::Optimizer {
  Slowing(const Net& net, bool saves_state)
      : Optimizer({torch::optim::OptimizerParamGroup(net->parameters())},
                  std::make_unique<torch::optim::SGDOptions>(0.1)),
        saves(saves_state) {}
  Tensor step(LossClosure) override {
    const torch::NoGradGuard no_grad;
    for (Tensor& p : param_groups()[0].params()) {
      auto& own = state()[p.unsafeGetTensorImpl()];
      if (!own) own = std::make_unique<OwnState>();
      p.sub_(p.grad() * 0.1 / ++static_cast<OwnState&>(*own).steps);
    }
    return {};
  }
  void save(torch::serialize::OutputArchive& archive) const override {
    if (!saves) return;
    const Tensor& p = param_groups()[0].params()[0];
    static_cast<const OwnState&>(*state().at(p.unsafeGetTensorImpl())).serialize(archive);
  }
  void load(torch::serialize::InputArchive& archive) override {
    OwnState read;
    read.serialize(archive);
    for (const Tensor& p : param_groups()[0].params()) {
      state()[p.unsafeGetTensorImpl()] = std::make_unique<OwnState>(read);
    }
  }
  bool saves;
};

CASE(optimizers_of_ones_own_are_taken_over_or_refused) {
  const int world = session.world_size(), rank = session.rank().value;
  for (const bool saves : {true, false}) {
    Net net = make_net(), other = make_net();
    Slowing optimizer(net, saves), alone(other, true);
    const auto distributed =
        or_throw(gs::torch::distribute(session, *net, optimizer, {all_reduce()}));
    gs::base::Status joined_well;
    for (int epoch = 0; epoch < 2 && joined_well.ok(); ++epoch) {
      const auto batches = [&](int r) { return epoch == 0 ? 2 + r : 3; };
      for (int s = 0; s < batches(rank); ++s) {
        or_throw(distributed->batch(2));
        optimizer.zero_grad();
        loss_of(net, batch_of(0, s)).backward();
        or_throw(distributed->step());
      }
      joined_well = distributed->join();
      for (int s = 0; s < batches(world - 1); ++s) {
        alone.zero_grad();
        loss_of(other, batch_of(0, s)).backward();
        alone.step({});
      }
    }
    if (saves || world == 1) {
      or_throw(joined_well);
      expect_close(everything(net), everything(other), "taken over");
    } else {
      expect_refused(joined_well, Code::kUnsupported, "Slowing saves nothing of its state");
    }
    or_throw(distributed->stop());
  }
}

/// In a join of several, whichever of them is refused.
CASE(who_is_refused_leaves_others_joined) {
  const int rank = session.rank().value;
  Net net = make_net();
  Slowing optimizer(net, false);
  const auto refused = or_throw(gs::torch::distribute(session, *net, optimizer, {all_reduce()}));
  gs::torch::Options options{all_reduce()};
  options.stage = gs::torch::Stage::kForce;
  Trained other(session, options, "adam");
  for (int s = 0; s < 2 + rank; ++s) {
    or_throw(refused->batch(2));
    optimizer.zero_grad();
    loss_of(net, batch_of(0, s)).backward();
    or_throw(refused->step());
    other.step(batch_of(rank, s));
  }
  const auto joined_well = gs::torch::join({refused.get(), other.distributed.get()});
  expect(joined_well.ok() == (session.world_size() == 1), "a state that is not saved");
  const Tensor mine = everything(other.net);
  Tensor first = mine.clone();
  or_throw(gs::broadcast(session.workers(), gs::torch::detail::bytes_of(first), gs::base::Rank(0)));
  expect(torch::equal(mine, first), "the other module was not joined");
  or_throw(refused->stop());
  or_throw(other.distributed->stop());
}

struct Normed : torch::nn::Module {
  Normed() {
    norm = register_module("norm", torch::nn::BatchNorm1d(5));
    last = register_module("last", torch::nn::Linear(5, 2));
    to(torch::kDouble);
  }
  Tensor forward(const Tensor& x) { return last->forward(norm->forward(x)); }
  torch::nn::BatchNorm1d norm{nullptr};
  torch::nn::Linear last{nullptr};
};

/// After the switch back, and not only with the next gradients.
CASE(staged_buffers_are_equal_after_a_switch) {
  Normed net;
  torch::optim::SGD optimizer(net.parameters(), torch::optim::SGDOptions(0.1));
  gs::torch::Options options;
  options.strategy = there_and_back();
  options.stage = gs::torch::Stage::kForce;
  const auto distributed = or_throw(gs::torch::distribute(session, net, optimizer, options));
  for (int s = 0; s < kSteps; ++s) {
    const Batch b = batch_of(session.rank().value, s);
    or_throw(distributed->batch(b.samples()));
    optimizer.zero_grad();
    torch::mse_loss(net.forward(b.x), b.y).backward();
    const auto report = or_throw(distributed->step());
    if (!report.switched || distributed->uses_server()) continue;
    const Tensor& mean = net.norm->running_mean;
    Tensor first = mean.clone();
    or_throw(
        gs::broadcast(session.workers(), gs::torch::detail::bytes_of(first), gs::base::Rank(0)));
    expect(torch::equal(mean, first), "running means differ");
  }
  or_throw(distributed->stop());
}

/// Where a gradient is this rank's alone it may be part of a graph, as without us.
CASE(gradients_with_a_graph) {
  for (const gs::Strategy& strategy : {server(), all_reduce()}) {
    Trained trained(session, {strategy}, "plain_sgd");
    Alone alone("plain_sgd");
    const auto penalize = [](Net& net, torch::optim::Optimizer& optimizer, auto before) {
      optimizer.zero_grad();
      before();
      const Tensor loss = loss_of(net, batch_of(0, 0));
      loss.backward({}, true, true);
      Tensor penalty = torch::zeros({}, torch::kDouble);
      for (const Tensor& p : net->parameters()) penalty = penalty + p.grad().pow(2).sum();
      before();
      penalty.backward();
    };
    const auto batch = [&] { or_throw(trained.distributed->batch(2)); };
    if (!trained.distributed->uses_server() && session.world_size() > 1) {
      try {
        penalize(trained.net, *trained.optimizer, batch);
        expect(false, "a graph through the mean");
      } catch (const gs::torch::Failure& failure) {
        expect_error(failure.error(), Code::kUnsupported, "through which no backward can go");
      }
      return;
    }
    penalize(trained.net, *trained.optimizer, batch);
    or_throw(trained.distributed->step());
    penalize(alone.net, *alone.optimizer, [] {});
    alone.optimizer->step();
    expect_close(everything(trained.net), everything(alone.net), strategy.to_string());
    trained.optimizer->zero_grad();  // or the graphs stay
    alone.optimizer->zero_grad();
    or_throw(trained.distributed->stop());
  }
}

CASE(param_groups_stay_as_they_were) {
  for (const gs::Strategy& strategy : {server(), there_and_back(), all_reduce()}) {
    Trained trained(session, {strategy}, "plain_sgd");
    Alone alone("plain_sgd");
    const auto move = [](torch::optim::Optimizer& optimizer, int from, int to) {
      auto& groups = optimizer.param_groups();
      auto& left = groups[static_cast<std::size_t>(from)].params();
      groups[static_cast<std::size_t>(to)].params().push_back(left.back());
      left.pop_back();
    };
    trained.step(batch_of(trained.rank, 0));
    alone.step(of_all(session.world_size(), 0));
    move(*trained.optimizer, 0, 1);
    const Batch b = batch_of(trained.rank, 1);
    or_throw(trained.distributed->batch(b.samples()));
    trained.optimizer->zero_grad();
    loss_of(trained.net, b).backward();
    if (strategy.to_string() == all_reduce().to_string()) {
      move(*alone.optimizer, 0, 1);  // each rank's own affair, if all do it
    } else {
      expect_refused(trained.distributed->step(), Code::kUnsupported, "into other param groups");
      move(*trained.optimizer, 1, 0);
    }
    Tensor foreign = torch::ones({2}, torch::kDouble).requires_grad_();
    auto& members = trained.optimizer->param_groups()[0].params();
    members.push_back(foreign);
    expect_refused(trained.distributed->step(), Code::kUnsupported, "or added, after distribute()");
    members.pop_back();
    or_throw(trained.distributed->step());
    alone.step(of_all(session.world_size(), 1));
    expect_close(everything(trained.net), everything(alone.net), strategy.to_string());
    or_throw(trained.distributed->stop());
  }
}

CASE(a_plateau_that_cannot_come_is_warned_of) {
  for (const bool told : {true, false}) {
    gs::Strategy strategy = small_buckets();
    strategy.kind = gs::StrategySwitch{};
    Trained trained(session, {strategy});
    const Batch b = batch_of(trained.rank, 0);
    or_throw(trained.distributed->batch(b.samples()));
    loss_of(trained.net, b).backward();
    or_throw(told ? trained.distributed->step(1.0, 0) : trained.distributed->step(1.0));
    or_throw(trained.distributed->stop());
  }
}

}  // namespace
}  // namespace cases
