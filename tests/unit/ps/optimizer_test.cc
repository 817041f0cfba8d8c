#include "gearshift/ps/optimizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <map>
#include <random>
#include <string>

namespace gearshift::ps {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<Slice> one_slice(std::uint32_t group = 0) {
  return {{0, base::DType::kF64, 0, 64, {{0, group, 0, 3, 4}, {1, group, 5, 0, 2}}}};
}

/// Applies one update with gradient 1 to the first segment.
base::Status step(Optimizer& rule, const HyperValues& hypers, std::array<double, 8>& parameters) {
  const std::array<double, 4> gradient{1, 1, 1, 1};
  const base::Bytes memory = base::slice(base::writable_bytes_of(parameters), 0, 32);
  const SegmentUpdate update{0, 0, memory, base::bytes_of(gradient)};
  return rule.apply({&update, 1}, hypers, 1);
}

TEST(NativeOptimizer, StateIsNamedAsInTorch) {
  struct Case {
    std::string kind;
    std::vector<std::string> hyper_names;
    HyperValues hypers;
    std::vector<std::string> tensors;
    double step;
  };
  const std::vector<Case> cases = {
      {"sgd", {"lr"}, {1}, {}, 0},
      {"sgd", {"lr", "momentum"}, {1, 0.9}, {"momentum_buffer"}, 0},
      {"adam", {"lr"}, {1}, {"exp_avg", "exp_avg_sq"}, 1},
      {"adamw", {"amsgrad", "lr"}, {1, 1}, {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"}, 1},
      {"adagrad", {"lr", "unheard of"}, {1, 9}, {"sum"}, 1},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.kind);
    auto rule = make_optimizer({.kind = c.kind, .hyper_names = c.hyper_names}, one_slice());
    ASSERT_TRUE(rule.ok());
    EXPECT_THAT((*rule)->tensor_names(0, 0), IsEmpty());
    EXPECT_THAT((*rule)->scalars(0, 0), IsEmpty());
    std::array<double, 8> parameters{};
    ASSERT_TRUE(step(**rule, c.hypers, parameters).ok());
    EXPECT_EQ((*rule)->tensor_names(0, 0), c.tensors);
    EXPECT_THAT((*rule)->tensor_names(0, 1), IsEmpty()) << "it had no update";
    const auto scalars = (*rule)->scalars(0, 0);
    EXPECT_EQ(scalars.contains("step") ? scalars.at("step") : 0, c.step);
    (*rule)->reset();
    EXPECT_THAT((*rule)->tensor_names(0, 0), IsEmpty());
  }
}

TEST(NativeOptimizer, StateGoesInAndOut) {
  auto rule = make_optimizer({.kind = "sgd", .hyper_names = {"lr", "momentum"}}, one_slice());
  const std::array<double, 4> written{1, 2, 3, 4};
  ASSERT_TRUE((*rule)->write_tensor(0, 0, "momentum_buffer", base::bytes_of(written)).ok());
  std::array<double, 8> parameters{};
  // The buffer that was handed over counts: this is not a first step.
  ASSERT_TRUE(step(**rule, {1, 0.5}, parameters).ok());
  std::array<double, 4> read{};
  ASSERT_TRUE((*rule)->read_tensor(0, 0, "momentum_buffer", base::writable_bytes_of(read)).ok());
  EXPECT_THAT(read, ElementsAre(1.5, 2, 2.5, 3));
  EXPECT_EQ(parameters[3], -3);
  EXPECT_EQ(parameters[4], 0);

  std::array<double, 2> wrong{};
  EXPECT_FALSE((*rule)->read_tensor(0, 0, "momentum_buffer", base::writable_bytes_of(wrong)).ok());
  EXPECT_FALSE((*rule)->read_tensor(0, 1, "momentum_buffer", base::writable_bytes_of(wrong)).ok());
  EXPECT_FALSE((*rule)->write_tensor(0, 0, "momentum_buffer", base::bytes_of(wrong)).ok());
  EXPECT_FALSE((*rule)->write_tensor(0, 0, "exp_avg", base::bytes_of(written)).ok());
  EXPECT_FALSE((*rule)->write_scalar(0, 0, "step", 1).ok());
}

TEST(NativeOptimizer, StateThatNoUpdateHasSeenIsComplete) {
  // Adagrad is born with it: torch refuses a sum without its step.
  auto rule = make_optimizer({.kind = "adagrad", .hyper_names = {"lr"}}, one_slice());
  const std::array<double, 4> written{0.1, 0.1, 0.1, 0.1};
  ASSERT_TRUE((*rule)->write_tensor(0, 0, "sum", base::bytes_of(written)).ok());
  ASSERT_TRUE((*rule)->write_scalar(0, 0, "step", 0).ok());
  const std::map<std::string, double> scalars = (*rule)->scalars(0, 0);
  ASSERT_TRUE(scalars.contains("step"));
  EXPECT_EQ(scalars.at("step"), 0);
}

/// How far a parameter goes in so many rounds, each with a gradient of every worker: applied one by
/// one with a factor of 1 / workers, or as their mean. Gradients are noise about a slope.
double travelled(const std::string& kind, double lr, int workers, int rounds, bool one_by_one) {
  auto rule = make_optimizer({.kind = kind, .hyper_names = {"lr"}}, one_slice());
  std::mt19937_64 random(7);
  std::normal_distribution<double> noise(0.2, 1);
  std::array<double, 4> parameters{};
  const auto apply = [&](const std::array<double, 4>& gradient, double factor) {
    const SegmentUpdate update{0, 0, base::writable_bytes_of(parameters), base::bytes_of(gradient)};
    ASSERT_TRUE((*rule)->apply({&update, 1}, {lr}, factor).ok());
  };
  for (int round = 0; round < rounds; ++round) {
    std::array<double, 4> mean{};
    for (int worker = 0; worker < workers; ++worker) {
      std::array<double, 4> gradient;
      for (std::size_t i = 0; i < 4; ++i) mean[i] += (gradient[i] = noise(random)) / workers;
      if (one_by_one) apply(gradient, 1.0 / workers);
    }
    if (!one_by_one) apply(mean, 1);
  }
  return -(parameters[0] + parameters[1] + parameters[2] + parameters[3]) / 4;
}

TEST(NativeOptimizer, PushesOfAllWorkersGoAsFarAsOneStep) {
  for (const int workers : {4, 16}) {
    for (const char* kind : {"sgd", "adagrad"}) {
      SCOPED_TRACE(kind);
      const double together = travelled(kind, 0.1, workers, 500, false);
      const double apart = travelled(kind, 0.1, workers, 500, true);
      EXPECT_GT(apart, 0.8 * together);
      EXPECT_LT(apart, 1.6 * together);
    }
  }
}

TEST(NativeOptimizer, RefusesWhatIsWrong) {
  EXPECT_FALSE(make_native_optimizer({.kind = "lion", .hyper_names = {}}, one_slice()).ok());
  EXPECT_FALSE(make_native_optimizer({.kind = "sgd", .hyper_names = {}}, one_slice(1)).ok());
  auto slices = one_slice();
  slices[0].segments[1].size = 4;
  EXPECT_FALSE(make_native_optimizer({.kind = "sgd", .hyper_names = {}}, slices).ok());
  slices = one_slice();
  slices[0].dtype = base::DType::kI64;
  EXPECT_FALSE(make_native_optimizer({.kind = "sgd", .hyper_names = {}}, slices).ok());
  auto rule = make_optimizer({.kind = "adam", .hyper_names = {"lr"}}, one_slice());
  std::array<double, 8> parameters{};
  EXPECT_FALSE(step(**rule, {1, 2}, parameters).ok());
}

TEST(MakeOptimizer, AsksTheExternalFactoryLast) {
  const OptimizerSpec external{.kind = "adadelta", .hyper_names = {"rho"}};
  auto nothing = make_optimizer(external, one_slice());
  ASSERT_FALSE(nothing.ok());
  EXPECT_EQ(nothing.error().code, base::ErrorCode::kUnsupported);
  int asked = 0;
  set_external_optimizer_factory(
      [&asked](const OptimizerSpec& spec, const std::vector<Slice>& slices) {
        ++asked;
        EXPECT_EQ(spec.kind, "adadelta");
        return make_native_optimizer({.kind = "sgd", .hyper_names = {}}, slices);
      });
  EXPECT_TRUE(make_optimizer(external, one_slice()).ok());
  EXPECT_TRUE(make_optimizer({.kind = "sgd", .hyper_names = {}}, one_slice()).ok());
  EXPECT_EQ(asked, 1);
  set_external_optimizer_factory(nullptr);
  EXPECT_FALSE(make_optimizer(external, one_slice()).ok());
}

}  // namespace
}  // namespace gearshift::ps
