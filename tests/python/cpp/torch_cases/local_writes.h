#pragma once

#include "local.h"

/// Writes to parameters between steps under local SGD. Included once.
namespace cases {
namespace {

CASE(parameters_may_be_written_to_under_local_sgd) {
  const int world = session.world_size();
  for (const auto stage : {gs::torch::Stage::kAuto, gs::torch::Stage::kForce}) {
    gs::torch::Options options;
    options.strategy = local_sgd(2);
    options.stage = stage;
    Trained trained(session, options, "sgd");
    SideBySide all(world, "sgd");
    const auto write = [&](int s) {
      const torch::NoGradGuard no_grad;
      const auto into = [s](Net& net) {
        if (s % 2 == 1) net->first->weight.clamp_(-0.1, 0.1);
        if (s % 2 == 0) net->last->bias.set_data(torch::ones_like(net->last->bias));
      };
      into(trained.net);
      for (Alone& one : all.ranks) into(one.net);
    };
    for (int s = 0; s < 5; ++s) {
      write(s);
      trained.step(batch_of(trained.rank, s));
      for (int r = 0; r < world; ++r) all.step(r, batch_of(r, s));
      if ((s + 1) % 2 == 0) all.average();
      expect_close(everything(trained.net), everything(all.of(trained.rank).net),
                   "step " + std::to_string(s));
    }
    write(5);
    or_throw(trained.distributed->join());
    all.average();
    expect_close(everything(trained.net), everything(all.of(0).net), "joined");
    write(6);
    or_throw(trained.distributed->stop());
    expect_close(everything(trained.net), everything(all.of(0).net), "stopped");
  }
}

/// Loaded before the first step, and right after a round: no change that it should see.
CASE(the_outer_optimizer_does_not_see_a_checkpoint) {
  const int world = session.world_size();
  for (const auto stage : {gs::torch::Stage::kAuto, gs::torch::Stage::kForce}) {
    gs::torch::Options options;
    options.strategy = local_sgd(2, 0.7, 0.9);
    options.stage = stage;
    Trained trained(session, options, "sgd");
    SideBySide all(world, "sgd", 0.7, 0.9);
    for (int s = 0; s < 6; ++s) {
      if (s % 2 == 0) {
        const torch::NoGradGuard no_grad;
        const auto load = [s](Net& net) { net->first->weight.fill_(0.1 * (s + 1)); };
        load(trained.net);
        for (Alone& one : all.ranks) load(one.net);
        all.recenter();
      }
      trained.step(batch_of(trained.rank, s));
      for (int r = 0; r < world; ++r) all.step(r, batch_of(r, s));
      if (s % 2 == 1) all.average();
      expect_close(everything(trained.net), everything(all.of(trained.rank).net),
                   "step " + std::to_string(s));
    }
    {
      const torch::NoGradGuard no_grad;
      trained.net->first->weight.fill_(0.25);  // the best one so far, before the end
    }
    or_throw(trained.distributed->stop());
    expect(torch::equal(trained.net->first->weight,
                        torch::full_like(trained.net->first->weight, 0.25)),
           "what was written last stays");
  }
}

}  // namespace
}  // namespace cases
