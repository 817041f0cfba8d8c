#pragma once

#include <ATen/record_function.h>

#include <sstream>

#include "local.h"

/// What local SGD remembers, and what it leaves alone. Included once.
namespace cases {
namespace {

std::string saved_by(gs::torch::Distributed& distributed) {
  std::stringstream stream;
  torch::serialize::OutputArchive archive;
  or_throw(distributed.save_optimizer(archive));
  archive.save_to(stream);
  return stream.str();
}

void load_from(const std::string& saved, gs::torch::Distributed& distributed) {
  std::istringstream stream(saved);
  torch::serialize::InputArchive archive;
  archive.load_from(stream);
  or_throw(distributed.load_optimizer(archive));
}

/// Saved at a round, or after the end; loaded by a job that begins with it.
CASE(archives_have_the_momentum_of_the_outer_optimizer) {
  const int world = session.world_size();
  const gs::torch::Options options{local_sgd(2, 0.7, 0.9)};
  for (const bool stops_first : {false, true}) {
    SideBySide all(world, "plain_sgd", 0.7, 0.9);
    const auto train = [&](Trained& trained, int from, int to) {
      for (int s = from; s < to; ++s) {
        trained.step(batch_of(trained.rank, s));
        for (int r = 0; r < world; ++r) all.step(r, batch_of(r, s));
        if (s % 2 == 1) all.average();
        expect_close(everything(trained.net), everything(all.of(trained.rank).net),
                     "step " + std::to_string(s));
      }
    };
    Trained first(session, options, "plain_sgd");
    train(first, 0, 4);
    if (stops_first) or_throw(first.distributed->stop());
    const std::string saved = saved_by(*first.distributed);
    if (!stops_first) or_throw(first.distributed->stop());

    Trained resumed(session, options, "plain_sgd");
    {
      const torch::NoGradGuard no_grad;
      const auto from = first.net->parameters();
      for (std::size_t i = 0; i < from.size(); ++i) resumed.net->parameters()[i].copy_(from[i]);
    }
    load_from(saved, *resumed.distributed);
    train(resumed, 4, 8);
    expect(saved_by(*resumed.distributed) != saved, "a momentum that stays as it was");
    or_throw(resumed.distributed->stop());

    Trained plain(session, {local_sgd(2)}, "plain_sgd");
    load_from(saved, *plain.distributed);  // which has none
    or_throw(plain.distributed->stop());
  }
}

/// Of a module on an accelerator, every copy would wait for all that the device does.
CASE(steps_between_rounds_copy_nothing) {
  static thread_local int copies = 0;
  const auto count = [](const at::RecordFunction& function) {
    if (std::string(function.name()) == "aten::copy_") ++copies;
    return std::unique_ptr<at::ObserverContext>();
  };
  gs::torch::Options options;
  options.strategy = local_sgd(3);
  options.stage = gs::torch::Stage::kForce;
  Trained trained(session, options, "plain_sgd");
  for (int s = 1; s <= 6; ++s) {
    const Batch b = batch_of(trained.rank, s);
    or_throw(trained.distributed->batch(b.samples()));
    trained.optimizer->zero_grad();
    loss_of(trained.net, b).backward();
    copies = 0;
    const auto handle = at::addThreadLocalCallback(
        at::RecordFunctionCallback(count).scopes({at::RecordScope::FUNCTION}));
    or_throw(trained.distributed->step());
    at::removeCallback(handle);
    expect((copies > 0) == (s % 3 == 0),
           std::to_string(copies) + " copies in step " + std::to_string(s));
  }
  or_throw(trained.distributed->stop());
}

CASE(one_module_joins_once) {
  Trained trained(session, {all_reduce()}, "sgd");
  gs::torch::Distributed* const one = trained.distributed.get();
  expect_refused(gs::torch::join({one, one}), Code::kInvalidArgument, "the same module twice");
  trained.step(batch_of(trained.rank, 0));
  or_throw(gs::torch::join({one}));
  or_throw(trained.distributed->stop());
}

}  // namespace
}  // namespace cases
