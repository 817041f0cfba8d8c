// From start() to stop(), and what an optimizer brings along.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <latch>
#include <thread>

#include "gearshift/collectives/collectives.h"
#include "gearshift/strategy/local_optimizer.h"
#include "quiet_job.h"
#include "toy.h"

namespace gearshift::strategy {
namespace {

using base::ErrorCode;
using ::testing::HasSubstr;

using Kind = decltype(Strategy::kind);

ReplicaOptions options_for(OptimizerBridge* bridge, Kind kind) {
  ReplicaOptions options;
  options.parameters = {{"weights", {3000}, base::DType::kF64, 0},
                        {"bias", {2}, base::DType::kF64, 0}};
  options.optimizer = toy::Worker::spec();
  options.bridge = bridge;
  options.strategy.kind = std::move(kind);
  return options;
}

std::unique_ptr<LocalOptimizer> optimizer_of(const std::vector<ParameterSpec>& parameters) {
  return std::move(*LocalOptimizer::create(parameters, toy::Worker::spec()));
}

TEST(Life, NothingIsDoneBeforeTheStartOrAfterTheStop) {
  for (const bool server : {false, true}) {
    toy::run_ranks(2, 0, [&](int, const Environment& environment) {
      Kind kind;
      if (server) kind = ParameterServer{};
      const auto optimizer = optimizer_of(options_for(nullptr, kind).parameters);
      const auto replica = *Replica::create(environment, options_for(optimizer.get(), kind));
      const auto expect_refused = [&](ErrorCode code) {
        EXPECT_EQ(replica->backward_begin(1).error().code, code);
        EXPECT_EQ(replica->ready(0).error().code, code);
        EXPECT_EQ(replica->backward_end({true, true}).error().code, code);
        EXPECT_EQ(replica->step({.hypers = toy::Worker::hypers()}).error().code, code);
        EXPECT_EQ(replica->join().error().code, code);
        EXPECT_EQ(replica->finish().error().code, code);
      };
      expect_refused(ErrorCode::kInvalidArgument);
      EXPECT_TRUE(replica->start().ok());
      EXPECT_EQ(replica->start().error().code, ErrorCode::kInvalidArgument);
      EXPECT_TRUE(replica->backward_begin(1).ok());
      EXPECT_TRUE(replica->backward_end({true, true}).ok());
      EXPECT_TRUE(replica->step({.hypers = toy::Worker::hypers()}).ok());
      EXPECT_TRUE(replica->stop().ok());
      EXPECT_TRUE(replica->stop().ok());
      expect_refused(ErrorCode::kClosed);
      EXPECT_FALSE(replica->start().ok());
    });
  }
}

/// As after an exception between backward and step. What is still to be sent is sent first.
TEST(Life, AReplicaMayGoWithGradientsOnTheirWay) {
  for (int round = 0; round < 5; ++round) {
    toy::run_ranks(1, 0, [&](int, const Environment& environment) {
      ReplicaOptions options = options_for(nullptr, ParameterServer{});
      for (int p = 0; p < 30; ++p) {
        options.parameters.push_back({"p" + std::to_string(p), {200'000}, base::DType::kF64, 0});
      }
      const auto optimizer = optimizer_of(options.parameters);
      options.bridge = optimizer.get();
      auto replica = *Replica::create(environment, options);
      ASSERT_TRUE(replica->start().ok());
      const std::vector<bool> all(options.parameters.size(), true);
      EXPECT_TRUE(replica->backward_end(all).ok());
      replica.reset();
    });
  }
}

/// A policy is asked on a server's task, and may look at the stats for as long as that runs.
TEST(Life, AReplicaMayGoWhileItsPolicyLooksAtTheStats) {
  std::latch asked(1);
  toy::run_ranks(2, 0, [&](int rank, const Environment& environment) {
    Replica* replica = nullptr;
    const auto asks = custom_policy("asks", [&](const Metrics& metrics) {
      if (metrics.step < 3) return false;
      asked.count_down();
      std::this_thread::sleep_for(std::chrono::milliseconds(50));  // meanwhile it goes
      return replica->stats().step < 2;
    });
    Strategy strategy;
    strategy.kind =
        StrategySwitch{AllReduce{}, ParameterServer{ps::Consistency::asp()}, at_step(1), asks};
    toy::Worker worker(environment, strategy);
    replica = worker.replica.get();
    for (int k = 0; k < 2; ++k) worker.step(4 * k + 2 * rank, 2);
    if (rank == 1) {
      EXPECT_EQ(worker.step(8, 2).step, 3);
    } else {
      asked.wait();
      worker.replica.reset();
    }
  });
}

TEST(Life, StateOfAnotherModelIsRefused) {
  toy::run_ranks(1, 0, [&](int, const Environment& environment) {
    const std::vector<ParameterSpec> one = {{"weights", {3000}, base::DType::kF64, 0}};
    const std::vector<ParameterSpec> narrow = {{"weights", {3000}, base::DType::kF32, 0},
                                               {"bias", {2}, base::DType::kF32, 0}};
    for (const auto& parameters : {one, narrow}) {
      const auto optimizer = optimizer_of(parameters);
      // With momentum, so that there is state.
      auto teacher_options = options_for(nullptr, AllReduce{});
      teacher_options.parameters = parameters;
      const auto teacher = *Replica::create(environment, teacher_options);
      const std::vector<bool> all(parameters.size(), true);
      EXPECT_TRUE(optimizer->apply(*teacher, all, toy::Worker::hypers()).ok());

      const auto replica =
          *Replica::create(environment, options_for(optimizer.get(), ParameterServer{}));
      const auto started = replica->start();
      ASSERT_FALSE(started.ok());
      EXPECT_EQ(started.error().code, ErrorCode::kInvalidArgument);
      EXPECT_THAT(started.error().message, HasSubstr("optimizer state"));
      const auto applied = optimizer->apply(*replica, {true, true}, toy::Worker::hypers());
      ASSERT_FALSE(applied.ok());
      EXPECT_THAT(applied.error().message, HasSubstr("the optimizer was made for"));
    }
    const auto optimizer = optimizer_of(options_for(nullptr, AllReduce{}).parameters);
    const auto replica = *Replica::create(environment, options_for(nullptr, AllReduce{}));
    EXPECT_FALSE(optimizer->apply(*replica, {true}, toy::Worker::hypers()).ok()) << "flags";
  });
}

/// The state of a bridge that cannot be taken over when half of a switch is done.
class BadBridge final : public OptimizerBridge {
 public:
  base::Result<std::vector<ps::StateEntry>> export_state() override {
    return base::Error(ErrorCode::kInvalidArgument, "no state today");
  }
  base::Status import_state(std::vector<ps::StateEntry>) override { return {}; }
};

TEST(Life, HalfASwitchEndsTheReplicaWhateverTheError) {
  BadBridge bridge;
  toy::run_ranks(2, 0, [&](int, const Environment& environment) {
    const StrategySwitch later{AllReduce{}, ParameterServer{}, at_step(1), nullptr};
    const auto replica = *Replica::create(environment, options_for(&bridge, later));
    ASSERT_TRUE(replica->start().ok());
    base::Status status;
    for (int k = 0; k < 3 && status; ++k) {
      ASSERT_TRUE(replica->backward_begin(1).ok());
      if (auto present = replica->backward_end({true, true}); !present) status = present.error();
      if (!status) break;
      if (auto step = replica->step({}); !step) status = step.error();
    }
    ASSERT_FALSE(status.ok());
    EXPECT_THAT(status.error().message, HasSubstr("no state today"));
    EXPECT_FALSE(replica->backward_begin(1).ok()) << "it is unusable";
  });
}

/// Its layout is larger than the head of a message may be.
TEST(Life, DedicatedServersTakeLargeModels) {
  quiet::Job job{.workers = 1, .servers = 1};
  job.strategy.kind = ParameterServer{ps::Consistency::asp()};
  job.steps = 1;
  for (int p = 0; p < 3000; ++p) {
    job.parameters.push_back({"p" + std::to_string(p), {1 << 20}, base::DType::kF32, 0});
  }
  quiet::run(job, true);
}

/// Momentum included, over epochs of 5, 3 and 0 batches per rank.
TEST(Life, WhoHadFewerBatchesTakesOverTheOptimizer) {
  const std::vector<ParameterSpec> parameters = {
      {"weights", {static_cast<std::int64_t>(toy::kFeatures)}, base::DType::kF64, 0},
      {"bias", {}, base::DType::kF64, 0}};
  const auto in_step = [](int k) { return k % 5 < 3 ? 4 : 2; };
  const toy::Model alone = toy::train_alone(10, in_step);
  toy::run_ranks(3, 0, [&](int rank, const Environment& environment) {
    const auto optimizer = optimizer_of(parameters);
    ReplicaOptions options;
    options.parameters = parameters;
    const auto replica = *Replica::create(environment, options);
    const toy::Model model;
    std::memcpy(replica->parameter(0).data(), model.weights.data(), toy::kFeatures * 8);
    std::memcpy(replica->parameter(1).data(), &model.bias, 8);
    ASSERT_TRUE(replica->start().ok());
    auto* weights = reinterpret_cast<double*>(replica->parameter(0).data());
    auto* bias = reinterpret_cast<double*>(replica->parameter(1).data());
    int next = 0;
    for (int epoch = 0; epoch < 2; ++epoch) {
      for (int k = 0; k < 5; next += in_step(k++)) {
        if (k >= (rank == 0 ? 5 : rank == 1 ? 3 : 0)) continue;
        auto* dw = reinterpret_cast<double*>(replica->gradient(0).data());
        auto* db = reinterpret_cast<double*>(replica->gradient(1).data());
        toy::gradient(weights, *bias, next + 2 * rank, 2, dw, *db);
        ASSERT_TRUE(replica->backward_begin(2).ok());
        const auto present = replica->backward_end({true, true});
        ASSERT_TRUE(present.ok());
        ASSERT_TRUE(optimizer->apply(*replica, *present, toy::Worker::hypers()).ok());
        ASSERT_TRUE(replica->step({.hypers = toy::Worker::hypers()}).ok());
      }
      const auto joined = replica->join();
      ASSERT_TRUE(joined.ok());
      ASSERT_TRUE(joined->steps_differ);
      const auto taken = optimizer->take_over(*environment.workers, joined->root);
      ASSERT_TRUE(taken.ok()) << taken.error().to_string();
    }
    for (std::size_t i = 0; i < toy::kFeatures; ++i) {
      EXPECT_NEAR(weights[i], alone.weights[i], 1e-12 * std::abs(alone.weights[i]) + 1e-15);
    }
    EXPECT_NEAR(*bias, alone.bias, 1e-12);
    EXPECT_TRUE(replica->stop().ok());
  });
}

}  // namespace
}  // namespace gearshift::strategy
