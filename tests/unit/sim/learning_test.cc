// Learning on the virtual clock is learning: what one process computes by itself.

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "clusters.h"
#include "gearshift/sim/logistic_regression.h"
#include "gearshift/sim/simulate.h"
#include "in_child.h"

namespace gearshift::sim::testing {
namespace {

constexpr std::size_t kFeatures = 5;
constexpr int kClasses = 3;
constexpr double kRate = 0.2;
constexpr double kMomentum = 0.9;

/// Three clouds of points around three corners.
LabelledData clouds(std::size_t samples, int seed) {
  LabelledData data{.feature_count = kFeatures, .classes = kClasses, .features = {}, .labels = {}};
  for (std::size_t i = 0; i < samples; ++i) {
    const int label = static_cast<int>(i % kClasses);
    data.labels.push_back(label);
    for (std::size_t f = 0; f < kFeatures; ++f) {
      const double noise =
          std::sin(12.9898 * static_cast<double>(i) + 78.233 * static_cast<double>(f) + seed);
      data.features.push_back(static_cast<float>((f % kClasses == i % kClasses ? 1 : 0) + noise));
    }
  }
  return data;
}

/// The rate of a parameter (0: weight, 1: bias) in a step; none: it has no gradient then.
using Rates = std::function<std::optional<double>(int parameter, int step)>;

std::optional<double> constant(int, int) { return kRate; }

/// Plain softmax regression with momentum in one process, in double.
std::vector<double> train_alone(const LabelledData& data, int steps, std::size_t batch,
                                const Rates& rates = constant) {
  std::vector<double> w(kClasses * (kFeatures + 1), 0.0), v = w;
  std::size_t next = 0;
  for (int k = 0; k < steps; ++k) {
    std::vector<double> d(w.size(), 0.0);
    for (std::size_t i = 0; i < batch; ++i, ++next) {
      const std::size_t s = next % data.size();
      double z[kClasses], sum = 0;
      for (std::size_t c = 0; c < kClasses; ++c) {
        z[c] = w[kClasses * kFeatures + c];
        for (std::size_t f = 0; f < kFeatures; ++f) {
          z[c] += w[c * kFeatures + f] * data.features[s * kFeatures + f];
        }
        sum += std::exp(z[c]);
      }
      for (std::size_t c = 0; c < kClasses; ++c) {
        const double error = std::exp(z[c]) / sum - (static_cast<int>(c) == data.labels[s] ? 1 : 0);
        for (std::size_t f = 0; f < kFeatures; ++f) {
          d[c * kFeatures + f] += error * data.features[s * kFeatures + f];
        }
        d[kClasses * kFeatures + c] += error;
      }
    }
    for (std::size_t i = 0; i < w.size(); ++i) {
      const std::optional<double> rate = rates(i < kClasses * kFeatures ? 0 : 1, k + 1);
      if (!rate) continue;
      v[i] = kMomentum * v[i] + d[i] / static_cast<double>(batch);
      w[i] -= *rate * v[i];
    }
  }
  return w;
}

/// Passes on to another learner, with rates that change, and keeps what worker 0's parameters are
/// at the end.
class Keeping final : public Learner {
 public:
  explicit Keeping(std::shared_ptr<Learner> learner) : learner_(std::move(learner)) {}
  Rates rates;  ///< of param groups that are the parameters; none: those of the options
  base::Status begin(int rank, strategy::Replica& replica) override {
    return learner_->begin(rank, replica);
  }
  base::Result<LearnerStep> gradient(int rank, std::int64_t step,
                                     strategy::Replica& replica) override {
    auto result = learner_->gradient(rank, step, replica);
    if (!result || !rates) return result;
    for (const int p : {0, 1}) {
      const std::optional<double> rate = rates(p, static_cast<int>(step));
      result->present.push_back(rate.has_value());
      result->hypers.insert(result->hypers.end(), {rate.value_or(0), kMomentum});
    }
    return result;
  }
  base::Result<double> evaluate(strategy::Replica& replica) override {
    parameters.clear();
    for (const std::uint32_t p : {0U, 1U}) {
      const base::Bytes memory = replica.parameter(p);
      const auto* values = reinterpret_cast<const double*>(memory.data());
      parameters.insert(parameters.end(), values, values + memory.size() / sizeof(double));
    }
    return learner_->evaluate(replica);
  }
  std::vector<double> parameters;

 private:
  std::shared_ptr<Learner> learner_;
};

SimulationOptions learning_options(int workers, int steps) {
  SimulationOptions options;
  options.cluster = ideal_cluster(workers);
  options.cluster.variability = Variability{.kind = Variability::Kind::kLogNormal, .spread = 0.4};
  options.workload = one_parameter(1);
  options.workload.batch_size = 4;
  options.workload.parameters =
      logistic_regression_parameters(kFeatures, kClasses, base::DType::kF64, 0.02);
  options.hypers = {kRate, kMomentum};
  options.steps = steps;
  options.evaluate_every = 10;
  auto learner = make_logistic_regression(options.workload, workers, clouds(48, 1), clouds(300, 2));
  EXPECT_TRUE(learner.ok());
  options.learner = std::make_shared<Keeping>(*learner);
  return options;
}

void expect_equal_to_alone(const SimulationOptions& options, const Rates& rates = constant) {
  in_child([&] {
    const auto result = simulate(options);
    ASSERT_TRUE(result.ok()) << result.error().to_string();
    const auto workers = static_cast<std::size_t>(options.cluster.workers());
    const auto alone = train_alone(clouds(48, 1), options.steps, 4 * workers, rates);
    const auto& mine = static_cast<const Keeping&>(*options.learner).parameters;
    ASSERT_EQ(mine.size(), alone.size());
    for (std::size_t i = 0; i < alone.size(); ++i) {
      EXPECT_NEAR(mine[i], alone[i], 1e-12 * std::abs(alone[i]) + 1e-14) << i;
    }
  });
}

strategy::StrategySwitch there_and_back() {
  strategy::StrategySwitch both;
  both.then = strategy::ParameterServer{};
  both.policy = strategy::at_step(13);
  both.back = strategy::at_step(29);
  return both;
}

TEST(Learning, SynchronousWorkersLearnWhatOneProcessLearns) {
  for (const int workers : {1, 2, 3, 5}) {
    SimulationOptions options = learning_options(workers, 40);
    expect_equal_to_alone(options);
    for (const int shards : {1, workers}) {
      strategy::ParameterServer server;
      server.shards = shards;
      options.strategy.kind = server;
      expect_equal_to_alone(options);
    }
    options.strategy.kind = there_and_back();
    expect_equal_to_alone(options);
  }
}

/// Two param groups at rates of their own, one of which has no gradient in every third step.
TEST(Learning, FollowsSchedulesGroupsAndMissingGradients) {
  const Rates rates = [](int parameter, int step) -> std::optional<double> {
    if (parameter == 1 && step % 3 == 0) return std::nullopt;
    return kRate / (parameter + 1) / (1 + 0.1 * step);
  };
  for (const auto& kind : {decltype(strategy::Strategy::kind)(strategy::AllReduce{}),
                           decltype(strategy::Strategy::kind)(strategy::ParameterServer{}),
                           decltype(strategy::Strategy::kind)(there_and_back())}) {
    SimulationOptions options = learning_options(3, 40);
    options.strategy.kind = kind;
    options.optimizer.param_groups = 2;
    options.param_groups = {0, 1};
    static_cast<Keeping&>(*options.learner).rates = rates;
    expect_equal_to_alone(options, rates);
  }
}

TEST(Learning, RefusesParamGroupsOfAnotherModel) {
  SimulationOptions options = learning_options(1, 5);
  options.param_groups = {0};
  const auto result = simulate(options);
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().message, "param_groups has 1 entries, the workload 2 parameters");
}

/// Learns nothing, and does something wrong in its second step, or before.
class Wrong final : public Learner {
 public:
  enum class Call { kCheck, kBegin, kGradient, kEvaluate, kFlags };
  explicit Wrong(Call call) : call_(call) {}

  base::Status check(const Workload&) override {
    throw_in(Call::kCheck);
    return {};
  }
  base::Status begin(int, strategy::Replica&) override {
    throw_in(Call::kBegin);
    return {};
  }
  base::Result<LearnerStep> gradient(int, std::int64_t step, strategy::Replica&) override {
    if (step == 2) throw_in(Call::kGradient);
    LearnerStep learnt;
    if (step == 2 && call_ == Call::kFlags) learnt.present = {true};
    return learnt;
  }
  base::Result<double> evaluate(strategy::Replica&) override {
    throw_in(Call::kEvaluate);
    return 0.0;
  }

 private:
  void throw_in(Call call) const {
    if (call == call_) throw std::runtime_error("no more data");
  }
  Call call_;
};

TEST(Learning, WhatALearnerDoesWrongIsAnError) {
  using Call = Wrong::Call;
  for (const Sharing sharing : {Sharing::kMaxMin, Sharing::kPerLink}) {
    for (const Call call :
         {Call::kCheck, Call::kBegin, Call::kGradient, Call::kEvaluate, Call::kFlags}) {
      SimulationOptions options = learning_options(3, 10);
      options.sharing = sharing;
      options.learner = std::make_shared<Wrong>(call);
      in_child([&] {
        const auto result = simulate(options);
        ASSERT_FALSE(result.ok());
        EXPECT_EQ(result.error().code, base::ErrorCode::kInvalidArgument);
        const char* const text = call == Call::kFlags
                                     ? "of 1 parameters whether they have a gradient, and the "
                                       "workload has 2"
                                     : "the learner threw: no more data";
        EXPECT_NE(result.error().message.find(text), std::string::npos)
            << result.error().to_string();
      });
    }
  }
}

TEST(Learning, OneAsynchronousWorkerLearnsWhatOneProcessLearns) {
  SimulationOptions options = learning_options(1, 40);
  strategy::ParameterServer server;
  server.consistency = ps::Consistency::asp();
  options.strategy.kind = server;
  expect_equal_to_alone(options);
}

TEST(Learning, CurveRisesOverVirtualTime) {
  SimulationOptions options = learning_options(4, 60);
  strategy::ParameterServer server;
  server.consistency = ps::Consistency::asp();
  options.strategy.kind = server;
  in_child([&] {
    const auto result = simulate(options);
    ASSERT_TRUE(result.ok()) << result.error().to_string();
    ASSERT_EQ(result->curve.size(), 6u);
    EXPECT_GT(result->curve.back().metric, 0.7);
    EXPECT_LT(result->curve.back().loss, result->curve.front().loss);
    EXPECT_NEAR(result->curve.back().seconds, result->workers[0].steps.back().end, 1e-12);
  });
}

/// Rates that one process bears are too much for gradients that are many versions old.
TEST(Learning, StaleGradientsDivergeWhereFreshOnesDoNot) {
  SimulationOptions options = learning_options(8, 60);
  options.hypers = {4.0, 0.9};
  strategy::ParameterServer server;
  server.consistency = ps::Consistency::asp();
  server.lr_scaling = strategy::LrScaling::kKeep;
  server.divergence_factor = 0;
  double losses[2] = {0, 0};
  const std::string file = ::testing::TempDir() + "gearshift-losses." + std::to_string(::getpid());
  for (const int asynchronous : {0, 1}) {
    if (asynchronous == 1) options.strategy.kind = server;
    in_child([&] {
      const auto result = simulate(options);
      ASSERT_TRUE(result.ok()) << result.error().to_string();
      std::FILE* out = std::fopen(file.c_str(), "w");
      double most = 0;
      for (const CurvePoint& point : result->curve) most = std::max(most, point.loss);
      std::fprintf(out, "%.17g", most);
      std::fclose(out);
    });
    std::FILE* in = std::fopen(file.c_str(), "r");
    ASSERT_NE(in, nullptr);
    EXPECT_EQ(std::fscanf(in, "%lf", &losses[asynchronous]), 1);
    std::fclose(in);
  }
  EXPECT_GT(losses[1], 3 * losses[0]);
}

TEST(Learning, DivergenceIsAnOutcomeWithWhatWasReached) {
  SimulationOptions options = learning_options(8, 400);
  options.hypers = {40.0, 0.95};
  options.evaluate_every = 2;
  strategy::ParameterServer server;
  server.consistency = ps::Consistency::asp();
  server.lr_scaling = strategy::LrScaling::kKeep;
  options.strategy.kind = server;
  in_child([&] {
    const auto result = simulate(options);
    ASSERT_TRUE(result.ok()) << result.error().to_string();
    ASSERT_TRUE(result->failure.has_value());
    EXPECT_EQ(result->failure->code, base::ErrorCode::kDiverged);
    EXPECT_GE(result->failure->culprit, 0);
    const auto& steps = result->workers[0].steps;
    ASSERT_GT(steps.size(), 2u);
    EXPECT_LT(steps.size(), 400u);
    EXPECT_LE(steps.back().end, result->virtual_seconds);
    EXPECT_EQ(result->curve.size(), steps.size() / 2);
  });
}

TEST(Learning, RefusesDataThatDoesNotFit) {
  Workload workload = one_parameter(7);
  const auto made = make_logistic_regression(workload, 1, clouds(6, 1), clouds(6, 1));
  ASSERT_FALSE(made.ok());
  EXPECT_NE(made.error().message.find("weight (3 x 5)"), std::string::npos);
  EXPECT_FALSE(make_logistic_regression(workload, 1, {}, clouds(6, 1)).ok());
}

}  // namespace
}  // namespace gearshift::sim::testing
