#pragma once

#include <limits>

#include "refusals.h"
#include "toy.h"

/// Local SGD: workers train alone, and take over the mean of their models now and then. Included
/// once.
namespace cases {
namespace {

void give_optimizer(const torch::optim::Optimizer& from, torch::optim::Optimizer& to) {
  std::stringstream stream;
  torch::serialize::OutputArchive out;
  from.save(out);
  out.save_to(stream);
  torch::serialize::InputArchive in;
  in.load_from(stream);
  to.state().clear();
  to.load(in);
}

void give_rates(const torch::optim::Optimizer& from, torch::optim::Optimizer& to) {
  for (std::size_t g = 0; g < to.param_groups().size(); ++g) {
    to.param_groups()[g].options().set_lr(from.param_groups()[g].options().get_lr());
  }
}

/// What all ranks do, in one process.
struct SideBySide {
  SideBySide(int world, const std::string& kind, double lr = 1, double momentum = 0)
      : samples(static_cast<std::size_t>(world), 0.0),
        center(make_net()),
        outer(center->parameters(),
              torch::optim::SGDOptions(lr).momentum(momentum).nesterov(momentum > 0)) {
    for (int r = 0; r < world; ++r) ranks.emplace_back(kind);
  }

  Alone& of(int rank) { return ranks[static_cast<std::size_t>(rank)]; }
  void weigh(int rank, double n) { samples[static_cast<std::size_t>(rank)] += n; }
  void step(int rank, const Batch& b) {
    of(rank).step(b);
    weigh(rank, b.samples());
  }

  /// The outer optimizer takes what the models have lost on average for a gradient.
  void average() {
    const torch::NoGradGuard no_grad;
    double total = 0;
    for (const double n : samples) total += n;
    if (total == 0) return;
    std::vector<Tensor> centers = center->parameters();
    for (std::size_t i = 0; i < centers.size(); ++i) {
      Tensor mean = torch::zeros_like(centers[i]);
      for (std::size_t r = 0; r < ranks.size(); ++r) {
        mean += ranks[r].net->parameters()[i] * (samples[r] / total);
      }
      centers[i].mutable_grad() = centers[i] - mean;
    }
    outer.step();
    for (Alone& one : ranks) {
      for (std::size_t i = 0; i < centers.size(); ++i) one.net->parameters()[i].copy_(centers[i]);
    }
    std::fill(samples.begin(), samples.end(), 0.0);
  }

  /// All make a step on all batches; what is common before is so afterwards.
  void step_together(int step) {
    const Batch all = of_all(static_cast<int>(ranks.size()), step);
    for (Alone& one : ranks) one.step(all);
    recenter();
  }
  /// The next round counts from here on.
  void recenter() {
    const torch::NoGradGuard no_grad;
    const std::vector<Tensor> from = of(0).net->parameters();
    for (std::size_t i = 0; i < from.size(); ++i) center->parameters()[i].copy_(from[i]);
  }

  std::vector<Alone> ranks;
  std::vector<double> samples;  ///< per rank, since the last round
  Net center;
  torch::optim::SGD outer;
};

void expect_equal_everywhere(gs::Session& session, const Tensor& mine, const std::string& what) {
  Tensor first = mine.clone();
  or_throw(gs::broadcast(session.workers(), gs::torch::detail::bytes_of(first), gs::base::Rank(0)));
  expect(torch::equal(mine, first), what + " differ");
}

/// Every step, not only after rounds; the last three come before a `stop` in the middle of a round.
void trains_like_models_side_by_side(gs::Session& session, const std::string& kind, int every,
                                     gs::torch::Options options, double lr = 1,
                                     double momentum = 0) {
  options.strategy = local_sgd(every, lr, momentum);
  Trained trained(session, options, kind);
  SideBySide all(session.world_size(), kind, lr, momentum);
  expect(trained.distributed->is_local(), "local SGD is in force");
  for (int s = 0; s < kSteps; ++s) {
    const Batch mine = batch_of(trained.rank, s);
    or_throw(trained.distributed->batch(mine.samples()));
    trained.optimizer->zero_grad();
    loss_of(trained.net, mine).backward();
    const auto report = or_throw(trained.distributed->step());
    for (int r = 0; r < session.world_size(); ++r) all.step(r, batch_of(r, s));
    expect(report.averaged == ((s + 1) % every == 0), "when there are rounds");
    if (report.averaged) all.average();
    const std::string when = kind + " in step " + std::to_string(s);
    expect_close(everything(trained.net), everything(all.of(trained.rank).net), when);
    schedule(*trained.optimizer, s);
    for (Alone& one : all.ranks) schedule(*one.optimizer, s);
  }
  or_throw(trained.distributed->stop());
  all.average();
  expect_close(everything(trained.net), everything(all.of(0).net), kind + " after stop()");
  expect_equal_everywhere(session, everything(trained.net), "models");
}

CASE(local_sgd_equals_models_side_by_side) {
  for (const auto stage : {gs::torch::Stage::kAuto, gs::torch::Stage::kForce}) {
    gs::torch::Options options;
    options.stage = stage;
    trains_like_models_side_by_side(session, "sgd", 5, options);
    trains_like_models_side_by_side(session, "adam", 1, options);
    trains_like_models_side_by_side(session, "rmsprop", 100, options);
    trains_like_models_side_by_side(session, "adamw", 5, options, 0.7, 0.9);
  }
}

/// Rank r has 3 + r batches; in the next epoch it has 5 - r. Rates go down with every step.
CASE(local_ranks_may_run_out_of_batches) {
  const int world = session.world_size(), every = 2;
  for (const std::string kind : {"sgd", "adam", "rmsprop"}) {
    Trained trained(session, {local_sgd(every)}, kind);
    SideBySide all(world, kind);
    const auto step = [](torch::optim::Optimizer& optimizer) {
      for (auto& group : optimizer.param_groups()) {
        group.options().set_lr(group.options().get_lr() * 0.9);
      }
    };
    for (int epoch = 0; epoch < 3; ++epoch) {
      const auto batches = [epoch](int rank) { return epoch % 2 == 0 ? 3 + rank : 5 - rank; };
      const int furthest = batches(0) < batches(world - 1) ? world - 1 : 0;
      for (int s = 0; s < batches(trained.rank); ++s) {
        trained.step(batch_of(trained.rank, 10 * epoch + s));
        step(*trained.optimizer);
      }
      or_throw(trained.distributed->join());
      for (int s = 0; s < batches(furthest); ++s) {
        for (int r = 0; r < world; ++r) {
          if (s >= batches(r)) continue;
          all.step(r, batch_of(r, 10 * epoch + s));
          step(*all.of(r).optimizer);
        }
        if ((s + 1) % every == 0) all.average();
      }
      all.average();
      for (Alone& one : all.ranks) give_rates(*all.of(furthest).optimizer, *one.optimizer);
      const std::string when = kind + " after epoch " + std::to_string(epoch);
      expect_close(everything(trained.net), everything(all.of(trained.rank).net), when);
      expect_equal_everywhere(session, everything(trained.net), "models");
    }
    or_throw(trained.distributed->stop());
  }
}

/// Two modules in one loop, of which one is trained by local SGD.
CASE(local_modules_join_with_others) {
  const int world = session.world_size();
  Trained one(session, {local_sgd(2)}, "adam"), two(session, {all_reduce()}, "sgd");
  SideBySide all(world, "adam");
  Alone alone("sgd");
  for (int epoch = 0; epoch < 2; ++epoch) {
    const auto batches = [epoch](int rank) { return epoch == 0 ? 3 + 2 * rank : 5 - rank; };
    for (int s = 0; s < batches(one.rank); ++s) {
      one.step(batch_of(one.rank, s));
      two.step(batch_of(two.rank, s + 20));
    }
    or_throw(gs::torch::join({two.distributed.get(), one.distributed.get()}));
    for (int s = 0; s < std::max(batches(0), batches(world - 1)); ++s) {
      std::vector<Batch> others;
      for (int r = 0; r < world; ++r) {
        if (s >= batches(r)) continue;
        all.step(r, batch_of(r, s));
        others.push_back(batch_of(r, s + 20));
      }
      if ((s + 1) % 2 == 0) all.average();
      alone.step(joined(others));
    }
    all.average();
    const std::string when = "after epoch " + std::to_string(epoch);
    expect_close(everything(one.net), everything(all.of(one.rank).net), "local " + when);
    expect_close(everything(two.net), everything(alone.net), "the other " + when);
  }
  or_throw(one.distributed->stop());
  or_throw(two.distributed->stop());
}

/// On all ranks alike, in a round and after the last step.
/// Switches after steps 4 and 9, with a round after every third step.
void switches_like_models_side_by_side(gs::Session& session, const std::string& kind,
                                       const gs::strategy::Phase& start,
                                       const gs::strategy::Phase& then, gs::torch::Stage stage) {
  gs::torch::Options options;
  options.stage = stage;
  options.strategy = small_buckets();
  options.strategy->kind =
      gs::StrategySwitch{start, then, gs::strategy::at_step(4), gs::strategy::at_step(9)};
  Trained trained(session, options, kind);
  SideBySide all(session.world_size(), kind);
  int begin = 0;  // of the phase
  for (int s = 1; s <= kSteps; ++s) {
    const bool is_local = trained.distributed->is_local(), last = s == 4 || s == 9;
    expect(is_local == std::holds_alternative<gs::LocalSgd>(s > 4 && s <= 9 ? then : start),
           "which phase is in force");
    trained.step(batch_of(trained.rank, s), false, s % 2 == 0);
    if (!is_local) {
      all.step_together(s);
    } else {
      for (int r = 0; r < session.world_size(); ++r) all.step(r, batch_of(r, s));
      if ((s - begin) % 3 == 0 || last) all.average();
    }
    if (last) begin = s;
    for (Alone& one : all.ranks) {
      if (is_local && last) give_optimizer(*all.of(0).optimizer, *one.optimizer);
    }
    expect_close(everything(trained.net), everything(all.of(trained.rank).net),
                 options.strategy->to_string() + " in step " + std::to_string(s));
  }
  or_throw(trained.distributed->stop());
  all.average();
  expect_close(everything(trained.net), everything(all.of(0).net), "after stop()");
}

CASE(local_sgd_can_be_switched_to_and_from) {
  const gs::strategy::Phase local = gs::LocalSgd{.every = 3};
  for (const auto stage : {gs::torch::Stage::kAuto, gs::torch::Stage::kForce}) {
    for (const gs::strategy::Phase& other :
         {gs::strategy::Phase(gs::AllReduce{}), gs::strategy::Phase(gs::ParameterServer{})}) {
      for (const std::string kind : {"sgd", "adam"}) {
        switches_like_models_side_by_side(session, kind, other, local, stage);
        switches_like_models_side_by_side(session, kind, local, other, stage);
      }
    }
  }
}

/// Accumulated, clipped by their own norm on some ranks alone, and part of a graph.
CASE(local_gradients_are_this_ranks_own) {
  const int world = session.world_size();
  Trained trained(session, {local_sgd(2)}, "sgd");
  SideBySide all(world, "sgd");
  const auto gradients_of = [](Net& net, int rank, int s) {
    Tensor penalty = torch::zeros({}, torch::kDouble);
    loss_of(net, batch_of(rank, s)).backward({}, true, true);
    for (const Tensor& p : net->parameters()) penalty = penalty + p.grad().pow(2).sum();
    return penalty;
  };
  for (int s = 0; s < 5; ++s) {
    // What is thrown away weighs nothing.
    trained.optimizer->zero_grad(s % 2 == 0);
    or_throw(trained.distributed->batch(100 * trained.rank));
    loss_of(trained.net, batch_of(0, s)).backward();
    trained.optimizer->zero_grad(s % 2 == 0);
    or_throw(trained.distributed->batch(1 + trained.rank));
    const Tensor penalty = gradients_of(trained.net, trained.rank, s);
    or_throw(trained.distributed->batch(2));
    penalty.backward();
    const bool clips = trained.rank % 2 == 0;
    const double norm = clips ? or_throw(trained.distributed->clip_grad_norm(0.05)) : 0;
    const auto report = or_throw(trained.distributed->step());
    for (int r = 0; r < world; ++r) {
      Alone& one = all.of(r);
      one.optimizer->zero_grad();
      gradients_of(one.net, r, s).backward();
      const double wanted =
          r % 2 == 0 ? torch::nn::utils::clip_grad_norm_(one.net->parameters(), 0.05) : 0;
      if (r == trained.rank) expect(std::abs(norm - wanted) < 1e-12, "a norm of one's own");
      one.optimizer->step();
      one.optimizer->zero_grad();
      all.weigh(r, 3 + r);
    }
    if (report.averaged) all.average();
    expect_close(everything(trained.net), everything(all.of(trained.rank).net),
                 "step " + std::to_string(s));
  }
  trained.optimizer->zero_grad();  // or the graphs stay
  or_throw(trained.distributed->stop());
}

/// Behind a batch() of their own; what backward had left before them counts no more.
CASE(local_gradients_may_be_made_by_hand) {
  const int world = session.world_size();
  Trained trained(session, {local_sgd(2)}, "plain_sgd");
  SideBySide all(world, "plain_sgd");
  const auto give = [](Net& net, double value) {
    for (Tensor& p : net->parameters()) p.mutable_grad() = torch::full_like(p, value);
  };
  for (int s = 0; s < 4; ++s) {
    if (s % 2 == 1) {
      or_throw(trained.distributed->batch(10 * (world - trained.rank)));
      loss_of(trained.net, batch_of(trained.rank, s)).backward();
      trained.optimizer->zero_grad();
    }
    or_throw(trained.distributed->batch(1 + trained.rank));
    give(trained.net, 1 + trained.rank);
    const auto report = or_throw(trained.distributed->step());
    for (int r = 0; r < world; ++r) {
      give(all.of(r).net, 1 + r);
      all.of(r).optimizer->step();
      all.weigh(r, 1 + r);
    }
    if (report.averaged) all.average();
    expect_close(everything(trained.net), everything(all.of(trained.rank).net),
                 "step " + std::to_string(s));
  }
  or_throw(trained.distributed->stop());
}

/// Its loss and gradient are NaN. The rank takes part in rounds all the same.
CASE(a_local_step_of_no_samples_is_left_out) {
  const int world = session.world_size();
  Trained trained(session, {local_sgd(2)}, "adam");
  SideBySide all(world, "adam");
  const Batch empty{torch::zeros({0, 5}, torch::kDouble), torch::zeros({0, 2}, torch::kDouble)};
  for (int s = 0; s < 6; ++s) {
    const auto has_some = [&](int rank) { return rank < world - 1 || s < 3; };
    const bool mine = has_some(trained.rank);
    or_throw(trained.distributed->batch(mine ? batch_of(trained.rank, s).samples() : 0));
    trained.optimizer->zero_grad();
    const Tensor loss = loss_of(trained.net, mine ? batch_of(trained.rank, s) : empty);
    loss.backward();
    const std::int64_t version = trained.net->first->weight._version();
    const auto report = or_throw(trained.distributed->step(loss));
    expect(report.skipped != mine, "what is left out");
    for (int r = 0; r < world; ++r) {
      if (has_some(r)) all.step(r, batch_of(r, s));
    }
    if (report.averaged) all.average();
    // Autograd must notice that saved values have changed.
    const bool is_newer = trained.net->first->weight._version() > version;
    expect(is_newer == (mine || report.averaged), "versions");
    expect_close(everything(trained.net), everything(all.of(trained.rank).net),
                 "step " + std::to_string(s));
  }
  or_throw(trained.distributed->stop());
}

/// Those of All-Reduce and servers lie in memory that rounds write to.
CASE(gradients_stay_after_a_switch_to_local_sgd) {
  for (const gs::strategy::Phase& start :
       {gs::strategy::Phase(gs::AllReduce{}), gs::strategy::Phase(gs::ParameterServer{})}) {
    gs::torch::Options options;
    options.strategy = small_buckets();
    options.strategy->kind =
        gs::StrategySwitch{start, gs::LocalSgd{.every = 1}, gs::strategy::at_step(2), nullptr};
    Trained trained(session, options, "plain_sgd");
    for (int s = 0; s < 5; ++s) {
      const Batch b = batch_of(trained.rank, s);
      or_throw(trained.distributed->batch(b.samples()));
      trained.optimizer->zero_grad(false);
      loss_of(trained.net, b).backward();
      const Tensor before = trained.net->first->weight.grad().clone();
      const auto report = or_throw(trained.distributed->step());
      expect(report.averaged == (s >= 2), "a round in each step");
      const Tensor& after = trained.net->first->weight.grad();
      expect(torch::equal(after, before), "gradients after step " + std::to_string(s));
    }
    or_throw(trained.distributed->stop());
  }
}

/// A join in which others switch, and after which this rank goes on with the gradients it had.
CASE(a_switch_to_local_sgd_in_a_join) {
  gs::torch::Options options;
  options.strategy = small_buckets();
  gs::ParameterServer server;
  server.consistency = gs::ps::Consistency::asp();
  options.strategy->kind =
      gs::StrategySwitch{server, gs::LocalSgd{.every = 2}, gs::strategy::at_step(3), nullptr};
  Trained trained(session, options, "adam");
  for (int s = 0; s < (trained.rank == 0 ? 2 : 3); ++s) trained.step(batch_of(trained.rank, s));
  const Tensor before = trained.net->first->weight.grad().clone();
  or_throw(trained.distributed->join());
  expect(trained.distributed->is_local() == (session.world_size() > 1), "the others have switched");
  expect(torch::equal(trained.net->first->weight.grad(), before), "gradients after the join");
  expect_equal_everywhere(session, everything(trained.net), "models");
  for (int s = 3; s < 8; ++s) {
    trained.step(batch_of(trained.rank, s), false, false);
    const Tensor& gradient = trained.net->first->weight.grad();
    expect(gradient.any().item<bool>(), "a round was made where the gradients were");
  }
  or_throw(trained.distributed->stop());
  expect_equal_everywhere(session, everything(trained.net), "models");
}

/// After rounds and at the end; in between they are each rank's own.
CASE(local_buffers_are_those_of_one_rank) {
  for (const auto stage : {gs::torch::Stage::kAuto, gs::torch::Stage::kForce}) {
    torch::nn::Sequential net(torch::nn::Linear(5, 4), torch::nn::BatchNorm1d(4),
                              torch::nn::Linear(4, 2));
    net->to(torch::kDouble);
    torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(0.1));
    gs::torch::Options options;
    options.strategy = local_sgd(2);
    options.stage = stage;
    const auto distributed = or_throw(gs::torch::distribute(session, *net, optimizer, options));
    for (int s = 0; s < 5; ++s) {
      const Batch b = batch_of(session.rank().value, s);
      or_throw(distributed->batch(b.samples()));
      optimizer.zero_grad();
      torch::mse_loss(net->forward(b.x), b.y).backward();
      const Tensor own = net->named_buffers()["1.running_mean"].clone();
      const auto report = or_throw(distributed->step());
      const Tensor mean = net->named_buffers()["1.running_mean"].clone();
      if (report.averaged) {
        expect_equal_everywhere(session, mean, "running means");
      } else {
        expect(torch::equal(mean, own), "a running mean that changes without a round");
      }
    }
    or_throw(distributed->stop());
    const auto state = net->named_buffers();
    expect(state["1.num_batches_tracked"].item<std::int64_t>() == 5, "batches seen");
    expect_equal_everywhere(session, state["1.running_mean"].clone(), "running means");
  }
}

CASE(local_sgd_says_what_it_lacks) {
  Net net = make_net();
  gs::Strategy strategy = small_buckets();
  strategy.kind =
      gs::StrategySwitch{gs::AllReduce{}, gs::LocalSgd{}, gs::strategy::at_step(2), nullptr};
  torch::optim::RMSprop rmsprop(net->parameters());
  expect_refused(gs::torch::distribute(session, *net, rmsprop, {strategy}), Code::kUnsupported,
                 "a switch to or from local SGD hands the optimizer's state over, and does not "
                 "know that of torch::optim::RMSprop: use torch::optim::SGD, Adam, AdamW or");
  OwnRule own(net->parameters(), torch::optim::SGDOptions(0.1));
  expect_refused(gs::torch::distribute(session, *net, own, {strategy}), Code::kUnsupported,
                 "or LocalSgd by itself");
  const auto distributed = or_throw(gs::torch::distribute(session, *net, own, {local_sgd(2)}));
  expect_refused(distributed->step(), Code::kInvalidArgument, "without batch() and backward()");
  or_throw(distributed->stop());
}

/// A round finds that ranks have stepped at different rates.
CASE(local_rates_that_differ_are_told) {
  if (session.world_size() == 1) return;
  Trained trained(session, {local_sgd(2)}, "plain_sgd");
  if (trained.rank == 1) trained.optimizer->param_groups()[0].options().set_lr(0.3);
  trained.step(batch_of(trained.rank, 0));
  const Batch b = batch_of(trained.rank, 1);
  or_throw(trained.distributed->batch(b.samples()));
  loss_of(trained.net, b).backward();
  expect_refused(trained.distributed->step(), Code::kMismatch, "different optimizer settings");
}

}  // namespace
}  // namespace cases
