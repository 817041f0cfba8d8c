#pragma once

#include <limits>
#include <sstream>

#include "toy.h"

/// What distributed training of libtorch modules must be equal to, and what it refuses. Included
/// once: libtorch's headers take long to compile.
namespace cases {
namespace {

void trains_like_one_process(gs::Session& session, const gs::Strategy& strategy,
                             const std::string& kind, gs::torch::Options options = {}) {
  options.strategy = strategy;
  Trained trained(session, options, kind);
  Alone alone(kind);
  for (int s = 0; s < kSteps; ++s) {
    trained.step(batch_of(trained.rank, s));
    alone.step(of_all(session.world_size(), s));
    expect_close(everything(trained.net), everything(alone.net),
                 kind + " under " + strategy.to_string() + " in step " + std::to_string(s));
    schedule(*trained.optimizer, s);
    schedule(*alone.optimizer, s);
  }
  // Also afterwards, alone again with the state that it was given back.
  or_throw(trained.distributed->stop());
  trained.distributed.reset();
  for (int s = kSteps; s < kSteps + 2; ++s) {
    trained.optimizer->zero_grad();
    loss_of(trained.net, of_all(session.world_size(), s)).backward();
    trained.optimizer->step();
    alone.step(of_all(session.world_size(), s));
  }
  expect_close(everything(trained.net), everything(alone.net), kind + " after stop()");
}

CASE(all_reduce_equals_one_process) {
  for (const auto& [kind, make] : optimizers())
    trains_like_one_process(session, all_reduce(), kind);
}

CASE(bsp_equals_one_process) {
  for (const std::string kind : {"sgd", "plain_sgd", "adam", "adamw", "adagrad"}) {
    trains_like_one_process(session, server(), kind);
  }
}

CASE(switch_and_back_equals_no_switch) {
  for (const std::string kind : {"sgd", "adam", "adamw", "adagrad"}) {
    trains_like_one_process(session, there_and_back(), kind);
  }
}

CASE(staged_parameters_equal_one_process) {
  gs::torch::Options options;
  options.stage = gs::torch::Stage::kForce;
  trains_like_one_process(session, there_and_back(), "adam", options);
}

/// All learn from the same batch: what ranks run ahead of others, or last, must not decide.
CASE(asynchronous_servers_train) {
  using gs::ps::Consistency;
  for (const auto c : {Consistency::asp(), Consistency::ssp(2), Consistency::buffered(2)}) {
    if (session.world_size() == 1 && c.kind != Consistency::Kind::kBuffered) {
      trains_like_one_process(session, server(c), "adam");  // with one worker there is no staleness
    }
    Trained trained(session, {server(c)}, "plain_sgd");
    const Batch batch = of_all(session.world_size(), 0);
    const double before = loss_of(trained.net, batch).item<double>();
    for (int s = 0; s < 24; ++s) trained.step(batch);
    or_throw(trained.distributed->join());
    const double after = loss_of(trained.net, batch).item<double>();
    expect(after < 0.9 * before, c.to_string() + " does not learn");
    or_throw(trained.distributed->stop());
  }
}

/// The fast wait for the slow, and all have what the servers have.
CASE(asynchronous_training_ends_together) {
  using gs::ps::Consistency;
  for (const auto c : {Consistency::asp(), Consistency::buffered(2)}) {
    Trained trained(session, {server(c)});
    for (int s = 0; s < 3 + 4 * trained.rank; ++s) trained.step(batch_of(trained.rank, s));
    or_throw(trained.distributed->stop());
    const Tensor mine = everything(trained.net).contiguous().clone();
    Tensor first = mine.clone();
    const gs::base::Bytes bytes{static_cast<std::byte*>(first.data_ptr()), first.nbytes()};
    or_throw(gs::collectives::broadcast(session.workers(), bytes, gs::base::Rank(0)));
    expect_close(mine, first, c.to_string());
  }
}

/// Who takes part, in whatever way gradients are zeroed.
CASE(odd_parameters_equal_one_process) {
  Traits traits;
  traits.frozen = traits.unused = traits.sometimes = traits.tied = true;
  for (const gs::Strategy& strategy : {all_reduce(), server(), there_and_back()}) {
    for (const bool to_none : {true, false}) {
      Trained trained(session, {strategy}, "adam", traits);
      Alone alone("adam", traits);
      const int world = session.world_size();
      for (int s = 0; s < kSteps; ++s) {
        // Through the extra layer goes the last rank's part alone, in two steps of three.
        const bool extra = s % 3 != 0;
        trained.step(batch_of(trained.rank, s), extra && trained.rank == world - 1, to_none);
        const Batch all = of_all(world, s);
        alone.optimizer->zero_grad(to_none);
        Tensor sum = torch::zeros({}, torch::kDouble);
        for (int r = 0; r < world; ++r) {
          const Batch b = batch_of(r, s);
          sum = sum + loss_of(alone.net, b, extra && r == world - 1) * b.samples();
        }
        (sum / all.samples()).backward();
        alone.optimizer->step();
        expect_close(everything(trained.net), everything(alone.net),
                     strategy.to_string() + " in step " + std::to_string(s));
      }
      or_throw(trained.distributed->stop());
    }
  }
}

/// Rank r has 3 + r batches; in the next epoch it has 5 - r.
CASE(ranks_may_run_out_of_batches) {
  const int world = session.world_size();
  for (const gs::Strategy& strategy : {all_reduce(), server()}) {
    Trained trained(session, {strategy}, "sgd");
    Alone alone("sgd");
    for (int epoch = 0; epoch < 2; ++epoch) {
      const auto batches = [epoch](int rank) { return epoch == 0 ? 3 + rank : 5 - rank; };
      for (int s = 0; s < batches(trained.rank); ++s) {
        trained.step(batch_of(trained.rank, 10 * epoch + s));
      }
      or_throw(trained.distributed->join());
      for (int s = 0; s < std::max(batches(0), batches(world - 1)); ++s) {
        std::vector<Batch> parts;
        for (int r = 0; r < world; ++r) {
          if (s < batches(r)) parts.push_back(batch_of(r, 10 * epoch + s));
        }
        alone.step(joined(parts));
      }
      expect_close(everything(trained.net), everything(alone.net),
                   strategy.to_string() + " after epoch " + std::to_string(epoch));
    }
    or_throw(trained.distributed->stop());
  }
}

CASE(accumulated_gradients_equal_one_process) {
  for (const gs::Strategy& strategy : {all_reduce(), server()}) {
    Trained trained(session, {strategy}, "sgd");
    Alone alone("sgd");
    for (int s = 0; s < 4; ++s) {
      trained.optimizer->zero_grad();
      alone.optimizer->zero_grad();
      for (int part = 0; part < 2; ++part) {
        or_throw(trained.distributed->batch(4));
        loss_of(trained.net, batch_of(0, 2 * s + part)).backward();
        loss_of(alone.net, batch_of(0, 2 * s + part)).backward();
      }
      or_throw(trained.distributed->step());
      alone.optimizer->step();
    }
    expect_close(everything(trained.net), everything(alone.net), strategy.to_string());
    or_throw(trained.distributed->stop());
  }
}

/// Under a server a rank's sum weighs as much as all samples that are in it, and no others.
CASE(accumulated_gradients_weigh_what_is_in_them) {
  const int world = session.world_size();
  Trained trained(session, {server()}, "sgd");
  Alone alone("sgd");
  for (int s = 0; s < 4; ++s) {
    // The last rank throws its first gradient away in every second step.
    const auto parts = [&](int rank) {
      const bool only_last = s % 2 == 1 && rank == world - 1;
      return only_last ? std::vector<Batch>{batch_of(rank, 2 * s + 1)}
                       : std::vector<Batch>{batch_of(rank, 2 * s), batch_of(0, 2 * s + 1)};
    };
    trained.optimizer->zero_grad();
    if (parts(trained.rank).size() == 1) {
      or_throw(trained.distributed->batch(100));
      loss_of(trained.net, batch_of(0, 0)).backward();
      trained.optimizer->zero_grad();
    }
    for (const Batch& b : parts(trained.rank)) {
      or_throw(trained.distributed->batch(b.samples()));
      loss_of(trained.net, b).backward();
    }
    or_throw(trained.distributed->step());
    Tensor sum = torch::zeros({}, torch::kDouble);
    double total = 0;
    for (int r = 0; r < world; ++r) {
      Tensor loss = torch::zeros({}, torch::kDouble);
      double samples = 0;
      for (const Batch& b : parts(r)) {
        loss = loss + loss_of(alone.net, b);
        samples += b.samples();
      }
      sum = sum + loss * samples;
      total += samples;
    }
    alone.optimizer->zero_grad();
    (sum / total).backward();
    alone.optimizer->step();
    expect_close(everything(trained.net), everything(alone.net), "step " + std::to_string(s));
  }
  or_throw(trained.distributed->stop());
}

CASE(clips_the_mean) {
  for (const gs::Strategy& strategy : {all_reduce(), server()}) {
    Trained trained(session, {strategy}, "adam");
    Alone alone("adam");
    for (int s = 0; s < 4; ++s) {
      const Batch mine = batch_of(trained.rank, s);
      or_throw(trained.distributed->batch(mine.samples()));
      trained.optimizer->zero_grad();
      loss_of(trained.net, mine).backward();
      const double norm = or_throw(trained.distributed->clip_grad_norm(0.05));
      or_throw(trained.distributed->step());
      alone.optimizer->zero_grad();
      loss_of(alone.net, of_all(session.world_size(), s)).backward();
      const double wanted = torch::nn::utils::clip_grad_norm_(alone.net->parameters(), 0.05);
      alone.optimizer->step();
      expect(norm > 0.05, "the norm is to be clipped");
      if (!trained.distributed->uses_server()) expect(std::abs(norm - wanted) < 1e-12, "norm");
    }
    expect_close(everything(trained.net), everything(alone.net), strategy.to_string());
    or_throw(trained.distributed->stop());
  }
}

/// Nor does the strategy's norm then.
CASE(an_infinite_norm_clips_nothing) {
  gs::Strategy strategy = server();
  std::get<gs::ParameterServer>(strategy.kind).clip_norm = 0.001;
  Trained trained(session, {strategy}, "sgd");
  Alone alone("sgd");
  for (int s = 0; s < 3; ++s) {
    const Batch mine = batch_of(trained.rank, s);
    or_throw(trained.distributed->batch(mine.samples()));
    trained.optimizer->zero_grad();
    loss_of(trained.net, mine).backward();
    or_throw(trained.distributed->clip_grad_norm(std::numeric_limits<double>::infinity()));
    or_throw(trained.distributed->step());
    alone.step(of_all(session.world_size(), s));
  }
  expect_close(everything(trained.net), everything(alone.net), "not clipped");
  or_throw(trained.distributed->stop());
}

CASE(buffers_are_equal_everywhere) {
  for (const gs::Strategy& strategy : {all_reduce(), server()}) {
    torch::manual_seed(session.rank().value);
    torch::nn::Sequential net(torch::nn::Linear(5, 4), torch::nn::BatchNorm1d(4),
                              torch::nn::Linear(4, 2));
    net->to(torch::kDouble);
    torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(0.1));
    const auto distributed = or_throw(gs::torch::distribute(session, *net, optimizer, {strategy}));
    for (int s = 0; s < 4; ++s) {
      const Batch b = batch_of(session.rank().value, s);
      or_throw(distributed->batch(b.samples()));
      optimizer.zero_grad();
      torch::mse_loss(net->forward(b.x), b.y).backward();
      or_throw(distributed->step());
    }
    or_throw(distributed->join());
    const auto state = net->named_buffers();
    expect(state["1.num_batches_tracked"].item<std::int64_t>() == 4, "batches seen");
    Tensor mean = state["1.running_mean"].clone();
    or_throw(
        gs::broadcast(session.workers(), gs::torch::detail::bytes_of(mean), gs::base::Rank(0)));
    expect(torch::equal(mean, state["1.running_mean"]), "running means differ");
    or_throw(distributed->stop());
  }
}

/// Under local SGD those of a step after which the ranks have met.
CASE(checkpoints_go_on_where_they_were) {
  for (const gs::Strategy& strategy : {all_reduce(), server(), local_sgd(3)}) {
    Trained trained(session, {strategy}, "adam");
    for (int s = 0; s < 3; ++s) trained.step(batch_of(trained.rank, s));
    std::stringstream weights, state;
    torch::save(trained.net, weights);
    torch::serialize::OutputArchive out;
    or_throw(trained.distributed->save_optimizer(out));
    out.save_to(state);
    std::vector<Tensor> ends;
    for (int time = 0; time < 2; ++time) {
      for (int s = 3; s < 6; ++s) trained.step(batch_of(trained.rank, s));
      ends.push_back(everything(trained.net));
      weights.clear();
      weights.seekg(0);
      torch::load(trained.net, weights);
      state.clear();
      state.seekg(0);
      torch::serialize::InputArchive in;
      in.load_from(state);
      or_throw(trained.distributed->load_optimizer(in));
    }
    expect_close(ends[1], ends[0], strategy.to_string());
    or_throw(trained.distributed->stop());
  }
}

/// A checkpoint that rank 0 alone has loaded before distribute().
CASE(state_comes_from_rank_0) {
  Net net = make_net({}, session.rank().value);
  OptimizerPtr optimizer = optimizers().at("adam")(net);
  Alone alone("adam");
  for (int s = 0; s < 2; ++s) alone.step(batch_of(0, s));
  if (session.rank().value == 0) {
    for (int s = 0; s < 2; ++s) {
      optimizer->zero_grad();
      loss_of(net, batch_of(0, s)).backward();
      optimizer->step();
    }
  }
  const auto distributed =
      or_throw(gs::torch::distribute(session, *net, *optimizer, {there_and_back()}));
  for (int s = 2; s < kSteps; ++s) {
    or_throw(distributed->batch(1));
    optimizer->zero_grad();
    loss_of(net, batch_of(0, s)).backward();
    or_throw(distributed->step());
    alone.step(batch_of(0, s));
  }
  expect_close(everything(net), everything(alone.net), "from a checkpoint");
  or_throw(distributed->stop());
}

CASE(parameters_may_be_written_to) {
  for (const gs::Strategy& strategy : {all_reduce(), server()}) {
    Trained trained(session, {strategy}, "sgd");
    Alone alone("sgd");
    for (int s = 0; s < 4; ++s) {
      for (Net net : {trained.net, alone.net}) {
        const torch::NoGradGuard no_grad;
        if (s == 1) net->first->weight.clamp_(-0.1, 0.1);
        if (s == 2) net->last->bias.set_data(torch::ones_like(net->last->bias));
      }
      trained.step(batch_of(trained.rank, s));
      alone.step(of_all(session.world_size(), s));
    }
    expect_close(everything(trained.net), everything(alone.net), strategy.to_string());
    or_throw(trained.distributed->stop());
  }
}

/// Rank r has 2 + r samples (batches of step 0), and the loss r - s in step s.
CASE(losses_are_averaged_and_switch) {
  const int world = session.world_size();
  double mean = 0, samples = 0;
  for (int r = 0; r < world; ++r) {
    mean += r * batch_of(r, 0).samples();
    samples += batch_of(r, 0).samples();
  }
  mean /= samples;
  gs::Strategy strategy = small_buckets();
  const auto is_low = [mean](const gs::strategy::Metrics& m) { return m.loss < mean - 1.5; };
  strategy.kind = gs::StrategySwitch{gs::AllReduce{}, gs::ParameterServer{},
                                     gs::strategy::custom_policy("low", is_low), nullptr};
  Trained trained(session, {strategy}, "sgd");
  for (int s = 0; s < 7; ++s) {
    const Batch b = batch_of(trained.rank, 0);
    or_throw(trained.distributed->batch(b.samples()));
    loss_of(trained.net, b).backward();
    // The loss of a step travels with the next one's gradients.
    const double known = trained.distributed->stats().loss;
    if (s > 0 && s < 4) expect(std::abs(known - (mean - s + 1)) < 1e-12, std::to_string(known));
    const auto report = or_throw(trained.distributed->step(trained.rank - s));
    expect(report.step == s + 1, "steps are counted");
  }
  expect(trained.distributed->uses_server(), "no switch");
  expect(trained.distributed->stats().switches.size() == 1, "one switch");
  or_throw(trained.distributed->stop());
}

}  // namespace
}  // namespace cases
