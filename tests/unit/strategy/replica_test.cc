#include "gearshift/strategy/replica.h"

#include <gtest/gtest.h>

#include "quiet_job.h"
#include "toy.h"

namespace gearshift::strategy {
namespace {

using toy::Model;
using toy::Worker;

/// Samples of rank r in a step: uneven, and none for the last of several ranks now and then.
int share(int rank, int workers, int step) {
  if (workers > 1 && rank == workers - 1 && step % 4 == 3) return 0;
  return 3 + rank;
}
int total(int workers, int step) {
  int sum = 0;
  for (int r = 0; r < workers; ++r) sum += share(r, workers, step);
  return sum;
}

void expect_like_one_process(int workers, int servers, const Strategy& strategy, int steps = 40,
                             const std::shared_ptr<const group::Topology>& topology = nullptr) {
  const Model alone = toy::train_alone(steps, [&](int k) { return total(workers, k); });
  toy::run_ranks(workers, servers, [&](int rank, Environment environment) {
    if (topology) environment.world->set_topology(topology);
    Worker worker(environment, strategy);
    int next = 0;
    for (int k = 0; k < steps; ++k) {
      int begin = next;
      for (int r = 0; r < rank; ++r) begin += share(r, workers, k);
      worker.step(begin, share(rank, workers, k));
      next += total(workers, k);
    }
    worker.expect_equals(alone);
    worker.ok(worker.replica->stop());
  });
}

class LikeOneProcess : public testing::TestWithParam<int> {};

TEST_P(LikeOneProcess, AllReduce) { expect_like_one_process(GetParam(), 0, Strategy{}); }

TEST_P(LikeOneProcess, BspServerWithOneShardAndWithOnePerWorker) {
  for (const int shards : {1, 0}) {
    Strategy strategy;
    strategy.kind = ParameterServer{ps::Consistency::bsp(), shards};
    expect_like_one_process(GetParam(), 0, strategy);
  }
}

TEST_P(LikeOneProcess, BspServerInProcessesOfItsOwn) {
  Strategy strategy;
  strategy.kind = ParameterServer{};
  expect_like_one_process(GetParam(), 2, strategy);
}

INSTANTIATE_TEST_SUITE_P(Workers, LikeOneProcess, testing::Values(1, 2, 3, 5));

TEST(Replica, AServerThatOwnsNothingHoldsNobodyUp) {
  group::LinkSpeeds speeds;
  speeds.measured = true;
  for (int a = 0; a < 4; ++a) {
    for (int b = 0; b < 4; ++b) {
      speeds.between.push_back({.latency = 0, .seconds_per_byte = a == 3 || b == 3 ? 4.0 : 1.0});
    }
  }
  const auto topology =
      std::make_shared<const group::Topology>(std::vector<int>{0, 1, 2, 3}, speeds);
  std::vector<base::Rank> servers;
  for (int r = 0; r < 4; ++r) servers.emplace_back(r);
  ASSERT_EQ(shard_weights(*topology, servers, 4).back(), 0U);
  Strategy strategy;
  strategy.kind = ParameterServer{};
  expect_like_one_process(4, 0, strategy, 40, topology);
  strategy.kind = StrategySwitch{AllReduce{}, ParameterServer{}, at_step(10), at_step(30)};
  expect_like_one_process(4, 0, strategy, 40, topology);
}

TEST(Replica, AsynchronousServerWithOneWorkerIsOneProcess) {
  Strategy strategy;
  strategy.kind = ParameterServer{ps::Consistency::asp()};
  expect_like_one_process(1, 0, strategy);
}

TEST(Replica, AsynchronousWorkersEndTogetherAfterAJoin) {
  Strategy strategy;
  strategy.kind = ParameterServer{ps::Consistency::asp()};
  std::vector<std::vector<double>> finals(3);
  toy::run_ranks(3, 0, [&](int rank, Environment environment) {
    Worker worker(environment, strategy);
    for (int k = 0; k < 10 + 5 * rank; ++k) worker.step(10 * k + rank, 2);
    auto joined = worker.replica->join();
    ASSERT_TRUE(joined.ok()) << joined.error().to_string();
    finals[static_cast<std::size_t>(rank)].assign(worker.weights(),
                                                  worker.weights() + toy::kFeatures);
    EXPECT_EQ(worker.replica->stats().step, 20);
    worker.ok(worker.replica->stop());
  });
  EXPECT_EQ(finals[0], finals[1]);
  EXPECT_EQ(finals[0], finals[2]);
}

TEST(Replica, AsynchronousWorkersEndTogether) {
  for (const ps::Consistency consistency :
       {ps::Consistency::asp(), ps::Consistency::ssp(1), ps::Consistency::buffered(4)}) {
    Strategy strategy;
    strategy.kind = ParameterServer{consistency};
    std::vector<std::vector<double>> finals(3);
    toy::run_ranks(3, 0, [&](int rank, Environment environment) {
      Worker worker(environment, strategy);
      for (int k = 0; k < 6 + 3 * rank; ++k) worker.step(10 * k + rank, 2);
      worker.ok(worker.replica->finish());
      auto state = worker.replica->fetch_state();
      ASSERT_TRUE(state.ok()) << state.error().to_string();
      const auto* momentum =
          reinterpret_cast<const double*>((*state)[0].tensors.at("momentum_buffer").data());
      auto& final = finals[static_cast<std::size_t>(rank)];
      final.assign(worker.weights(), worker.weights() + toy::kFeatures);
      final.insert(final.end(), momentum, momentum + toy::kFeatures);
      worker.ok(worker.replica->stop());
    });
    EXPECT_EQ(finals[0], finals[1]) << consistency.to_string();
    EXPECT_EQ(finals[0], finals[2]) << consistency.to_string();
  }
}

TEST(Replica, WhatABufferedServerHoldsAtTheEndIsApplied) {
  Strategy strategy;
  strategy.kind = ParameterServer{ps::Consistency::buffered(4)};
  toy::run_ranks(1, 0, [&](int, Environment environment) {
    Worker worker(environment, strategy);
    for (int k = 0; k < 2; ++k) worker.step(0, 2);
    EXPECT_EQ(worker.weights()[0], Model().weights[0]) << "two of four gradients";
    worker.ok(worker.replica->finish());
    worker.expect_equals(toy::train_alone(1, [](int) { return 2; }));
    worker.ok(worker.replica->stop());
  });
}

TEST(Replica, AsynchronousWorkersWaitForTheSlowestAtTheEnd) {
  Strategy strategy;
  strategy.kind = ParameterServer{ps::Consistency::asp()};
  for (const bool finishes : {false, true}) {
    toy::run_ranks(
        2, 0,
        [&](int rank, Environment environment) {
          Worker worker(environment, strategy);
          for (int k = 0; k < 10; ++k) {
            // Longer than the timeout in all.
            if (rank == 1) {
              environment.world->scheduler().sleep_for(std::chrono::milliseconds(250));
            }
            worker.step(k, 1);
          }
          if (finishes) worker.ok(worker.replica->finish());
          worker.ok(worker.replica->stop());
        },
        std::chrono::seconds(2));
  }
}

TEST(Replica, OneThatEndsWhileOthersEndAnEpochIsAnError) {
  Strategy strategy;
  strategy.kind = ParameterServer{ps::Consistency::asp()};
  toy::run_ranks(2, 0, [&](int rank, Environment environment) {
    Worker worker(environment, strategy);
    worker.step(rank, 1);
    base::Status status;
    if (rank == 0) {
      status = worker.replica->finish();
    } else if (auto joined = worker.replica->join(); !joined) {
      status = joined.error();
    }
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().code, base::ErrorCode::kMismatch);
    EXPECT_NE(status.error().message.find("rank 0 has ended the training"), std::string::npos);
  });
}

TEST(Replica, RanksThatRunOutDoNotStallTheOthers) {
  // Rank 0 has 10 batches, rank 1 has 7, rank 2 none: the mean is over those who have some.
  const auto batches = [](int rank) { return rank == 0 ? 10 : rank == 1 ? 7 : 0; };
  const auto in_step = [&](int k) { return k < 7 ? 4 : 2; };
  const Model alone = toy::train_alone(10, in_step);
  for (const bool server : {false, true}) {
    toy::run_ranks(3, 0, [&](int rank, Environment environment) {
      Strategy strategy;
      if (server) strategy.kind = ParameterServer{};
      Worker worker(environment, strategy);
      int next = 0;
      for (int k = 0; k < batches(rank); ++k) {
        worker.step(next + 2 * rank, 2);
        next += in_step(k);
      }
      auto joined = worker.replica->join();
      ASSERT_TRUE(joined.ok()) << joined.error().to_string();
      EXPECT_EQ(joined->root, base::Rank(0));
      EXPECT_TRUE(joined->steps_differ);
      worker.expect_equals(alone);
      EXPECT_EQ(worker.replica->stats().step, 10);
      worker.ok(worker.replica->stop());
    });
  }
}

TEST(Replica, GradientsAreLeftAloneUntilThoseOfOthersComeIn) {
  toy::run_ranks(2, 0, [&](int rank, Environment environment) {
    Worker worker(environment, Strategy{});
    worker.step(4 * rank, 4);
    const auto* dw = reinterpret_cast<const double*>(worker.replica->gradient(0).data());
    const std::vector<double> mean(dw, dw + toy::kFeatures);
    if (rank == 0) worker.step(8, 4);
    int calls = 0;
    auto joined = worker.replica->join([&] {
      ++calls;
      EXPECT_EQ(std::vector<double>(dw, dw + toy::kFeatures), mean);
    });
    ASSERT_TRUE(joined.ok()) << joined.error().to_string();
    EXPECT_EQ(calls, rank) << "nothing came in at rank 0";
  });
}

TEST(Replica, RanksThatApplyDifferentRatesAreToldSo) {
  toy::run_ranks(3, 0, [&](int rank, Environment environment) {
    Worker worker(environment, Strategy{});
    const auto round = [&] {
      worker.ok(worker.replica->backward_begin(1));
      return worker.replica->backward_end({true, true});
    };
    const auto step = [&](double lr) {
      StepInput input;
      input.hypers = {lr, 0.9};
      EXPECT_TRUE(worker.replica->step(input).ok());
    };
    ASSERT_TRUE(round().ok());
    step(0.5);
    ASSERT_TRUE(round().ok()) << "equal rates";
    step(rank == 1 ? 0.25 : 0.5);
    const auto third = round();
    ASSERT_FALSE(third.ok());
    EXPECT_EQ(third.error().code, base::ErrorCode::kMismatch);
    EXPECT_NE(third.error().message.find("ranks applied step 2 with different optimizer settings"),
              std::string::npos)
        << third.error().message;
  });
}

TEST(Replica, RatesOfDifferentStepsMayDifferAfterAJoin) {
  toy::run_ranks(2, 0, [&](int rank, Environment environment) {
    Worker worker(environment, Strategy{});
    const auto step = [&](double lr) {
      worker.ok(worker.replica->backward_begin(1));
      ASSERT_TRUE(worker.replica->backward_end({true, true}).ok());
      StepInput input;
      input.hypers = {lr, 0.9};
      ASSERT_TRUE(worker.replica->step(input).ok());
    };
    step(1);
    if (rank == 0) step(0.5);
    ASSERT_TRUE(worker.replica->join().ok());
    step(0.25);
    step(0.125);
  });
}

TEST(Replica, ARankWithoutAnyBatchOfAnEpochKnowsItsLosses) {
  // In epoch 1 rank 1 has no batch. The policy, which sees losses by epoch, decides alike after it.
  Strategy strategy;
  StrategySwitch both;
  both.then = ParameterServer{};
  both.policy = loss_plateau(1, 0.9);
  strategy.kind = both;
  toy::run_ranks(2, 0, [&](int rank, Environment environment) {
    Worker worker(environment, strategy);
    for (int epoch = 0; epoch < 4; ++epoch) {
      if (epoch != 1 || rank == 0) {
        for (int k = 0; k < 3; ++k) worker.step(12 * k + 6 * rank, 6, epoch);
      }
      ASSERT_TRUE(worker.replica->join().ok());
      if (!worker.replica->uses_server()) worker.optimizer->reset();  // on both: equal again
    }
    EXPECT_EQ(worker.replica->stats().switches.size(), 1U);
    worker.ok(worker.replica->stop());
  });
}

TEST(Replica, GradientsThatNobodyHasStayAbsent) {
  toy::run_ranks(2, 0, [&](int rank, Environment environment) {
    Worker worker(environment, Strategy{});
    auto* dw = reinterpret_cast<double*>(worker.replica->gradient(0).data());
    std::fill_n(dw, toy::kFeatures, 7.0);
    worker.ok(worker.replica->backward_begin(1));
    if (rank == 0) worker.ok(worker.replica->ready(0));
    auto present = worker.replica->backward_end({rank == 0, false});
    ASSERT_TRUE(present.ok());
    EXPECT_EQ(*present, (std::vector<bool>{true, false}));
    EXPECT_DOUBLE_EQ(dw[3], 3.5) << "rank 1 counts with a zero gradient";
  });
}

TEST(Replica, GradientsChangedAfterBackwardAreWhatTheServerApplies) {
  Strategy strategy;
  strategy.kind = ParameterServer{};
  toy::run_ranks(2, 0, [&](int, Environment environment) {
    Worker worker(environment, strategy);
    const double before = worker.bias();
    worker.ok(worker.replica->backward_begin(1));
    auto* bias = reinterpret_cast<double*>(worker.replica->gradient(1).data());
    auto* weights = worker.replica->gradient(0).data();
    std::fill_n(weights, worker.replica->gradient(0).size(), std::byte{0});
    *bias = 5;
    worker.ok(worker.replica->ready(1));
    ASSERT_TRUE(worker.replica->backward_end({true, true}).ok());
    *bias = 2;  // clipped, unscaled ...
    StepInput input;
    input.hypers = Worker::hypers();
    input.modified = {true};
    EXPECT_FALSE(worker.replica->step(input).ok()) << "one flag for several buckets";
    input.modified.clear();
    ASSERT_TRUE(worker.replica->step(input).ok());
    EXPECT_NEAR(worker.bias(), before - toy::kLr * 2, 1e-15);
    worker.ok(worker.replica->stop());
  });
}

TEST(Replica, AServerMayEndAfterABackwardWithoutAStep) {
  quiet::Job job{.workers = 1};
  job.strategy.kind = ParameterServer{};
  // Large enough that some gradients are not on their way yet when backward has ended.
  for (int p = 0; p < 4; ++p) {
    job.parameters.push_back({"p" + std::to_string(p), {1 << 21}, base::DType::kF64, 0});
  }
  toy::run_ranks(1, 0, [&](int, Environment environment) {
    quiet::Worker worker(job, environment, false);
    ASSERT_TRUE(worker.replica().backward_end(std::vector<bool>(4, true)).ok());
    worker.ok(worker.replica().stop());
  });
}

TEST(Replica, TheTimeAfterABackwardThatNoStepFollowedIsNotSpentCommunicating) {
  Strategy strategy;
  strategy.kind = ParameterServer{};
  toy::run_ranks(1, 0, [&](int, Environment environment) {
    Worker worker(environment, strategy);
    worker.ok(worker.replica->ready(0));
    ASSERT_TRUE(worker.replica->backward_end({true, true}).ok());
    ASSERT_TRUE(worker.replica->join().ok());
    base::Scheduler& scheduler = environment.world->scheduler();
    scheduler.sleep_for(std::chrono::milliseconds(50));
    const double before = worker.replica->stats().communication_seconds;
    const base::TimePoint begin = scheduler.now();
    worker.step(0, 2);
    EXPECT_LE(worker.replica->stats().communication_seconds - before,
              base::to_seconds(scheduler.now() - begin) + 1e-9);
    worker.ok(worker.replica->stop());
  });
}

TEST(Replica, ServersNeedAllNumbersOfAStep) {
  Strategy strategy;
  strategy.kind = ParameterServer{};
  toy::run_ranks(1, 0, [&](int, Environment environment) {
    Worker worker(environment, strategy);
    worker.ok(worker.replica->backward_begin(1));
    ASSERT_TRUE(worker.replica->backward_end({true, true}).ok());
    StepInput input;
    input.hypers = {0.1};
    const auto report = worker.replica->step(input);
    ASSERT_FALSE(report.ok());
    EXPECT_EQ(report.error().code, base::ErrorCode::kInvalidArgument);
    EXPECT_NE(report.error().message.find("lr momentum"), std::string::npos)
        << report.error().message;
    input.hypers = Worker::hypers();
    EXPECT_TRUE(worker.replica->step(input).ok()) << "nothing has been sent before";
    worker.ok(worker.replica->stop());
  });
}

TEST(Replica, ARankInTheMiddleOfABackwardCannotJoin) {
  toy::run_ranks(2, 0, [&](int rank, Environment environment) {
    Worker worker(environment, Strategy{});
    worker.ok(worker.replica->backward_begin(1));
    worker.ok(worker.replica->ready(1));
    if (rank == 0) {
      const auto joined = worker.replica->join();
      ASSERT_FALSE(joined.ok());
      EXPECT_EQ(joined.error().code, base::ErrorCode::kInvalidArgument);
    }
    EXPECT_TRUE(worker.replica->backward_end({true, true}).ok());
    EXPECT_TRUE(worker.replica->step({}).ok());
    EXPECT_TRUE(worker.replica->join().ok());
  });
}

TEST(Replica, RanksMustAgree) {
  toy::run_ranks(3, 0, [&](int rank, Environment environment) {
    ReplicaOptions options;
    options.parameters = {{"w", {rank == 2 ? 5 : 4}, base::DType::kF32, 0}};
    auto made = Replica::create(environment, options);
    ASSERT_FALSE(made.ok());
    EXPECT_EQ(made.error().code, base::ErrorCode::kMismatch);
    EXPECT_NE(made.error().message.find("rank 2 has 'parameter w (5)"), std::string::npos)
        << made.error().message;
  });
}

TEST(Replica, ServerNeedsAnOptimizer) {
  toy::run_ranks(1, 0, [&](int, Environment environment) {
    ReplicaOptions options;
    options.parameters = {{"w", {4}, base::DType::kF32, 0}};
    options.strategy.kind = ParameterServer{};
    auto made = Replica::create(environment, options);
    ASSERT_FALSE(made.ok());
    EXPECT_EQ(made.error().code, base::ErrorCode::kInvalidArgument);
  });
}

TEST(ReplicaMemory, StaysForWhoeverHoldsIt) {
  for (const bool by_server : {false, true}) {
    Strategy strategy;
    if (by_server) strategy.kind = ParameterServer{};
    toy::run_ranks(2, 0, [&](int, Environment environment) {
      Worker worker(environment, strategy);
      const std::shared_ptr<const void> held = worker.replica->memory();
      const base::Bytes views[] = {worker.replica->parameter(0), worker.replica->gradient(0)};
      worker.step(0, 3);
      const std::byte before = views[0].back();
      worker.ok(worker.replica->stop());
      worker.replica.reset();
      EXPECT_EQ(views[0].back(), before);
      for (const base::Bytes view : views) base::zero(view);
      EXPECT_EQ(views[1].front(), std::byte(0));
    });
  }
}

}  // namespace
}  // namespace gearshift::strategy
