#include <gtest/gtest.h>

#include <limits>
#include <string>

#include "gearshift/strategy/replica.h"
#include "toy.h"

namespace gearshift::strategy {
namespace {

using toy::Worker;

TEST(Replica, AStepComesAfterABackward) {
  for (const bool by_server : {false, true}) {
    Strategy strategy;
    if (by_server) strategy.kind = ParameterServer{};
    toy::run_ranks(2, 0, [&](int rank, Environment environment) {
      Worker worker(environment, strategy);
      StepInput input;
      input.hypers = Worker::hypers();
      const auto refused = [&](const std::string& why) {
        const auto report = worker.replica->step(input);
        ASSERT_FALSE(report.ok());
        EXPECT_EQ(report.error().code, base::ErrorCode::kInvalidArgument);
        EXPECT_NE(report.error().message.find(why), std::string::npos) << report.error().message;
      };
      refused("without a backward");
      worker.step(rank, 1);
      refused("without a backward");
      worker.ok(worker.replica->backward_begin(1));
      refused("a backward has begun");
      worker.ok(worker.replica->ready(1));
      refused("a backward has begun");
      ASSERT_TRUE(worker.replica->backward_end({true, true}).ok());
      ASSERT_TRUE(worker.replica->step(input).ok());
      ASSERT_TRUE(worker.replica->backward_end({true, true}).ok());
      ASSERT_TRUE(worker.replica->join().ok());
      refused("without a backward");
      EXPECT_EQ(worker.replica->stats().step, 2);
      worker.ok(worker.replica->stop());
    });
  }
}

TEST(Replica, AGradientThatServersSkipNeedsNoBackward) {
  Strategy strategy;
  strategy.kind = ParameterServer{};
  toy::run_ranks(1, 0, [&](int, Environment environment) {
    Worker worker(environment, strategy);
    const double before = worker.bias();
    StepInput input;
    input.skip = true;
    const auto report = worker.replica->step(input);
    ASSERT_TRUE(report.ok()) << report.error().to_string();
    EXPECT_TRUE(report->skipped);
    EXPECT_EQ(worker.bias(), before);
    worker.ok(worker.replica->stop());
  });
}

TEST(Replica, NumbersOfAStepAreFinite) {
  const double infinity = std::numeric_limits<double>::infinity();
  const double nan = std::numeric_limits<double>::quiet_NaN();
  Strategy strategy;
  strategy.kind = ParameterServer{};
  toy::run_ranks(1, 0, [&](int, Environment environment) {
    Worker worker(environment, strategy);
    ASSERT_TRUE(worker.replica->backward_end({true, true}).ok());
    StepInput good;
    good.hypers = Worker::hypers();
    const auto refused = [&](const StepInput& input, const std::string& which) {
      const auto report = worker.replica->step(input);
      ASSERT_FALSE(report.ok());
      EXPECT_EQ(report.error().code, base::ErrorCode::kInvalidArgument);
      EXPECT_NE(report.error().message.find(which), std::string::npos) << report.error().message;
    };
    for (const double number : {infinity, -infinity, nan}) {
      StepInput input = good;
      input.gradient_factor = number;
      refused(input, "gradient_factor");
    }
    for (const double number : {infinity, -1.0, nan}) {
      StepInput input = good;
      input.clip_norm = number;
      refused(input, "clip_norm");
    }
    EXPECT_TRUE(worker.replica->step(good).ok());
    worker.ok(worker.replica->stop());
  });
}

}  // namespace
}  // namespace gearshift::strategy
