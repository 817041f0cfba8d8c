#include <gtest/gtest.h>

#include <cstring>

#include "toy.h"

/// What must be the same on all ranks, and may not be.
namespace gearshift::strategy {
namespace {

using toy::Worker;

Strategy diloco(int every) {
  Strategy strategy;
  strategy.kind = LocalSgd{.every = every, .outer_lr = 0.7, .outer_momentum = 0.9};
  return strategy;
}

Strategy switch_from_asp(std::int64_t at) {
  Strategy strategy;
  strategy.kind =
      StrategySwitch{ParameterServer{ps::Consistency::asp()}, AllReduce{}, at_step(at), nullptr};
  return strategy;
}

void write_weights(Worker& worker, double value) {
  auto* weights = reinterpret_cast<double*>(worker.replica->parameter(0).data());
  std::fill(weights, weights + toy::kFeatures, value);
}

std::vector<double> weights_of(Worker& worker) {
  return {worker.weights(), worker.weights() + toy::kFeatures};
}

/// Rank 0 switches, too, or is out of batches then, and has the lowest number.
TEST(Same, ScalesAreThoseOfARankThatSwitches) {
  for (const int own : {3, 1}) {
    toy::run_ranks(3, 0, [&](int rank, Environment environment) {
      Worker worker(environment, switch_from_asp(3));
      worker.scale = 10 + rank;
      for (int k = 0; k < (rank == 0 ? own : 2); ++k) worker.step(5 * k + rank, 2);
      if (rank > 0) worker.step(20 + rank, 2);
      EXPECT_TRUE(worker.replica->join().ok());
      EXPECT_FALSE(worker.replica->uses_server());
      EXPECT_EQ(worker.scale, own == 3 ? 10 : 11) << "with " << own << " steps";
      worker.ok(worker.replica->stop());
    });
  }
}

TEST(Same, ParametersAreComparedByTheFirstRoundOfAllReduce) {
  for (const bool all_write : {true, false}) {
    toy::run_ranks(2, 0, [&](int rank, Environment environment) {
      Worker worker(environment, Strategy{});
      if (all_write || rank == 1) write_weights(worker, 0.5);
      worker.ok(worker.replica->backward_begin(1));
      const auto ended = worker.replica->backward_end({true, true});
      EXPECT_EQ(ended.ok(), all_write);
      if (!ended) {
        EXPECT_EQ(ended.error().code, base::ErrorCode::kMismatch);
        EXPECT_NE(ended.error().to_string().find("before the first step"), std::string::npos);
      }
      worker.ok(worker.replica->stop());
    });
  }
}

/// A job that goes on from parameters, and the outer state, is one that was never interrupted.
TEST(Same, TheOuterStateGoesOn) {
  toy::run_ranks(3, 0, [](int rank, Environment environment) {
    Worker whole(environment, diloco(2), 128, 0);
    Worker first(environment, diloco(2), 128, 1);
    for (int k = 0; k < 4; ++k) {
      whole.step(9 * k + 3 * rank, 3);
      first.step(9 * k + 3 * rank, 3);
    }
    const auto state = first.replica->fetch_outer_state();
    ASSERT_TRUE(state.ok());
    ASSERT_EQ(state->size(), 2U);
    for (const ps::StateEntry& entry : *state) EXPECT_EQ(entry.tensors.size(), 1U);
    Worker second(environment, diloco(2), 128, 2);
    std::memcpy(second.replica->parameter(0).data(), first.replica->parameter(0).data(),
                toy::kFeatures * 8);
    std::memcpy(second.replica->parameter(1).data(), first.replica->parameter(1).data(), 8);
    second.ok(second.import_state(*first.export_state()));
    second.ok(second.replica->store_parameters());
    second.ok(second.replica->store_outer_state(*state));
    for (int k = 4; k < 8; ++k) {
      whole.step(9 * k + 3 * rank, 3);
      second.step(9 * k + 3 * rank, 3);
    }
    EXPECT_EQ(weights_of(second), weights_of(whole));
    std::vector<ps::StateEntry> wrong(2);
    wrong[0].tensors.emplace("momentum_buffer", base::Buffer(8));
    EXPECT_EQ(second.replica->store_outer_state(wrong).error().code,
              base::ErrorCode::kInvalidArgument);
    second.ok(second.replica->store_outer_state(std::vector<ps::StateEntry>(2)));
    const auto none = second.replica->fetch_outer_state();
    ASSERT_TRUE(none.ok());
    EXPECT_TRUE((*none)[0].tensors.empty());
    for (Worker* worker : {&whole, &first, &second}) worker->ok(worker->replica->stop());
  });
}

/// It has no batches, and so no part in what rounds compare.
TEST(Same, ARankThatHasLoadedNothingTakesOverWhatTheOthersHave) {
  std::vector<std::vector<double>> found(3);
  toy::run_ranks(3, 0, [&](int rank, Environment environment) {
    Worker worker(environment, diloco(2));
    for (int k = 0; k < 2; ++k) worker.step(9 * k + 3 * rank, 3);
    if (rank != 1) {
      write_weights(worker, 0.25);
      std::vector<ps::StateEntry> state(2);
      const std::vector<double> momentum(toy::kFeatures, 0.5);
      state[0].tensors.emplace("momentum_buffer",
                               base::Buffer::copy_of(std::as_bytes(std::span(momentum))));
      worker.ok(worker.replica->store_parameters());
      worker.ok(worker.replica->store_outer_state(state));
      for (int k = 2; k < 4; ++k) worker.step(9 * k + 3 * rank, 3);
    }
    const auto joined = worker.replica->join();
    ASSERT_TRUE(joined.ok());
    EXPECT_EQ(joined->root.value, 0);
    EXPECT_TRUE(joined->steps_differ);
    for (int k = 4; k < 6; ++k) worker.step(9 * k + 3 * rank, 3);
    found[static_cast<std::size_t>(rank)] = weights_of(worker);
    worker.ok(worker.replica->stop());
  });
  EXPECT_EQ(found[1], found[0]);
  EXPECT_EQ(found[2], found[0]);
}

}  // namespace
}  // namespace gearshift::strategy
