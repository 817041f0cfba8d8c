// The statistics by which a simulation stops, on series whose mean is known.

#include "sim/mean_estimate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <numbers>
#include <numeric>
#include <random>
#include <vector>

namespace gearshift::sim {
namespace {

constexpr int kTotal = 1000;
constexpr double kPrecision = 0.01;
using Series = std::vector<double>;

/// What a simulation that has reached the tolerance says.
struct Answer {
  int known = 0;  ///< 0: none
  MeanEstimate estimate;
  double error = 0;  ///< share by which the mean of the whole series is off
  bool covered() const { return error <= estimate.half_width + 1e-9; }
};

double sum(const Series& values) { return std::accumulate(values.begin(), values.end(), 0.0); }

/// Asks as often as a simulation does.
Answer ask(const Series& whole, int period = 1) {
  const int total = static_cast<int>(whole.size());
  for (int n = 24; 2 * n <= total; n = static_cast<int>(std::ceil(1.2 * n))) {
    const Series known(whole.begin(), whole.begin() + n);
    const auto found = estimate_mean(known, total, period);
    if (!found || found->half_width > kPrecision) continue;
    const double all = sum(known) + (total - n) * found->mean;
    return {n, *found, std::abs(all / sum(whole) - 1)};
  }
  return {};
}

Series series(const std::function<double(int)>& value, int total = kTotal) {
  Series values;
  for (int i = 0; i < total; ++i) values.push_back(value(i));
  return values;
}

/// Normal numbers, the same with every library.
class Normal {
 public:
  explicit Normal(std::uint64_t seed) : bits_(seed) {}
  double operator()() {
    const double radius = std::sqrt(-2 * std::log(uniform()));
    return radius * std::cos(2 * std::numbers::pi * uniform());
  }

 private:
  double uniform() { return (static_cast<double>(bits_() >> 11U) + 0.5) * 0x1p-53; }
  std::mt19937_64 bits_;
};

/// An autoregressive process of first order around 1.
Series noise(double correlation, double deviation, std::uint64_t seed) {
  Normal normal(seed);
  double state = normal();
  return series([&](int) {
    state = correlation * state + std::sqrt(1 - correlation * correlation) * normal();
    return 1 + deviation * state;
  });
}

struct Coverage {
  int answers = 0, covered = 0;
  double share() const { return static_cast<double>(covered) / answers; }
};

Coverage coverage(double correlation, double deviation, int seeds = 300) {
  Coverage found;
  for (int seed = 1; seed <= seeds; ++seed) {
    const Answer answer = ask(noise(correlation, deviation, static_cast<std::uint64_t>(seed)));
    if (answer.known == 0) continue;
    ++found.answers;
    if (answer.covered()) ++found.covered;
  }
  return found;
}

TEST(MeanEstimate, CoversTheMeanOfCorrelatedValues) {
  for (const double deviation : {0.003, 0.01, 0.03}) {
    for (const double correlation : {-0.5, 0.0, 0.3, 0.6}) {
      const Coverage found = coverage(correlation, deviation);
      EXPECT_GT(found.answers, 250) << correlation << ' ' << deviation;
      EXPECT_GE(found.share(), 0.94) << correlation << ' ' << deviation;
    }
  }
}

/// Where few answers are given, those that are given must still be good.
TEST(MeanEstimate, IsCarefulWithStrongCorrelation) {
  for (const double deviation : {0.003, 0.01, 0.03}) {
    EXPECT_GE(coverage(0.8, deviation).share(), 0.9) << deviation;
    EXPECT_GE(coverage(0.9, deviation).share(), 0.85) << deviation;
  }
  EXPECT_LT(coverage(0.9, 0.06).answers, 10);
}

TEST(MeanEstimate, KnowsWhatDoesNotVary) {
  const Answer answer = ask(series([](int) { return 0.2; }));
  EXPECT_EQ(answer.known, 24);
  EXPECT_DOUBLE_EQ(answer.estimate.mean, 0.2);
  EXPECT_LT(answer.estimate.half_width, 1e-9);
  EXPECT_FALSE(estimate_mean(Series(19, 1.0), kTotal));
  EXPECT_FALSE(estimate_mean({}, kTotal));
}

TEST(MeanEstimate, LeavesTheStartOut) {
  for (const int warmup : {1, 3, 8}) {
    const Answer answer = ask(series([&](int i) { return i < warmup ? 2.0 : 1.0; }));
    EXPECT_GT(answer.known, 0) << warmup;
    EXPECT_LE(answer.known, 35) << warmup;
    EXPECT_NEAR(answer.error, 0, 1e-9) << warmup;
  }
  for (const double steps : {3.0, 10.0}) {
    const Answer answer = ask(series([&](int i) { return 1 + 0.2 * std::exp(-i / steps); }));
    EXPECT_GT(answer.known, 0) << steps;
    EXPECT_TRUE(answer.covered()) << steps << ": " << answer.error;
  }
}

TEST(MeanEstimate, TakesNoDriftForASteadyState) {
  for (const double deviation : {0.0, 0.0005}) {
    for (int seed = 1; seed <= 50; ++seed) {
      const Series random = noise(0, deviation, static_cast<std::uint64_t>(seed));
      const auto with = [&](const std::function<double(int)>& drift) {
        return ask(series([&](int i) { return random[static_cast<std::size_t>(i)] + drift(i); }));
      };
      for (const double more : {-0.5, -0.2, 0.2, 0.5, 1.0, 10.0}) {
        EXPECT_EQ(with([&](int i) { return more * i / kTotal; }).known, 0) << more;
      }
      for (const double steps : {100, 200, 300}) {
        EXPECT_EQ(with([&](int i) { return 0.2 * std::exp(-i / steps); }).known, 0) << steps;
      }
      for (const double steps : {10, 30}) {
        const Answer answer = with([&](int i) { return 0.2 * std::exp(-i / steps); });
        EXPECT_LT(answer.error, 0.002) << steps;
        EXPECT_GT(answer.known, 3 * steps) << steps;
      }
    }
  }
}

/// A drift that does not matter, if it went on to the end, is counted in.
TEST(MeanEstimate, CountsASmallDriftIn) {
  const Answer answer = ask(series([](int i) { return 1 + 0.01 * i / kTotal; }));
  EXPECT_GT(answer.known, 0);
  EXPECT_TRUE(answer.covered());
  EXPECT_GT(answer.estimate.half_width, 0.004);
}

TEST(MeanEstimate, SeesAChange) {
  for (const double deviation : {0.0, 0.003, 0.01}) {
    int covered = 0, all = 0;
    for (const int at : {8, 12, 16, 20, 22}) {
      for (int seed = 1; seed <= 50; ++seed) {
        const Series random = noise(0, deviation, static_cast<std::uint64_t>(seed));
        const Answer answer = ask(series(
            [&](int i) { return random[static_cast<std::size_t>(i)] + (i < at ? 0 : 0.1); }));
        EXPECT_LT(answer.error, 0.02) << at;
        ++all;
        if (answer.covered()) ++covered;
      }
    }
    EXPECT_GE(covered, 0.94 * all) << deviation;
  }
}

TEST(MeanEstimate, IsNotMisledByPatterns) {
  for (int period = 2; period <= 16; ++period) {
    for (int phase = 0; phase < period; ++phase) {
      const Answer wave = ask(series(
          [&](int i) { return 1 + 0.1 * std::sin(2 * std::numbers::pi * (i + phase) / period); }));
      EXPECT_TRUE(wave.covered()) << period << ' ' << phase;
      const Answer spike =
          ask(series([&](int i) { return (i + phase) % period == 0 ? 1.5 : 1.0; }));
      EXPECT_TRUE(spike.covered()) << period << ' ' << phase;
      // Whose period is known.
      const Answer known =
          ask(series([&](int i) { return (i + phase) % period == 0 ? 1.5 : 1.0; }), period);
      EXPECT_LT(known.error, 1e-3) << period << ' ' << phase;
      EXPECT_EQ(known.estimate.window % period, 0);
    }
  }
}

}  // namespace
}  // namespace gearshift::sim
