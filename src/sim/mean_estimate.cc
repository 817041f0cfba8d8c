#include "sim/mean_estimate.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>

namespace gearshift::sim {
namespace {

constexpr int kBatches = 10;
constexpr double kT9 = 2.262;  ///< Student's t, 97.5 %, of so many degrees of freedom
constexpr double kT3 = 3.182;
constexpr double kTrend = 1.860;    ///< 95 %, of eight
constexpr int kTruncation = 5;      ///< values that are averaged to find the transient
constexpr double kNearLeast = 1.5;  ///< squares of errors so much greater are hardly greater
/// Values that the window is worth: at least, and enough for the degrees of freedom of ten batches.
constexpr double kFewIndependent = 5, kManyIndependent = 20;

using Values = std::span<const double>;

double mean_of(Values values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

/// Of `size` values each, up to the last one; those that are left over at the front don't count.
std::vector<double> batch_means(Values values, std::size_t size) {
  const std::size_t count = values.size() / size;
  std::vector<double> means(count);
  for (std::size_t i = 0; i < count; ++i) {
    means[i] = mean_of(values.subspan(values.size() - (count - i) * size, size));
  }
  return means;
}

double square_sum(Values values, double mean) {
  double sum = 0;
  for (const double value : values) sum += (value - mean) * (value - mean);
  return sum;
}

struct Transient {
  std::size_t length = 0;
  bool over = true;
};

Transient transient(Values values, std::size_t period) {
  const std::size_t size = (kTruncation + period - 1) / period * period;
  const std::vector<double> means = batch_means(values, size);
  const std::size_t count = means.size();
  if (count == 0) return {};
  std::vector<double> errors;
  // The last quarter is not tried, for a few values are often equal by chance.
  for (std::size_t d = 0; d <= count * 3 / 4; ++d) {
    const Values rest = Values(means).subspan(d);
    const auto length = static_cast<double>(rest.size());
    errors.push_back(square_sum(rest, mean_of(rest)) / (length * length));
  }
  const double rounding = 1e-18 * means.back() * means.back();
  const double near = kNearLeast * *std::min_element(errors.begin(), errors.end()) + rounding;
  const auto first =
      std::find_if(errors.begin(), errors.end(), [&](double error) { return error <= near; });
  auto cut = static_cast<std::size_t>(first - errors.begin());
  const bool over = 2 * cut <= count;
  if (!over) cut = count / 2;
  return {cut == 0 ? 0 : values.size() - (count - cut) * size, over};
}

/// What is left of values without their mean at each place of a period. They are whole periods.
std::vector<double> without_period(Values values, std::size_t period) {
  std::vector<double> means(period), left(values.begin(), values.end());
  const auto periods = static_cast<double>(values.size() / period);
  for (std::size_t i = 0; i < values.size(); ++i) means[i % period] += values[i] / periods;
  for (std::size_t i = 0; i < values.size(); ++i) left[i] -= means[i % period];
  return left;
}

/// Of neighbours: what is seen, what a short series hides of it on average, and its standard error.
double correlation(Values values, double mean) {
  const double squares = square_sum(values, mean);
  if (squares == 0) return 0;
  double sum = 0;
  for (std::size_t i = 1; i < values.size(); ++i) {
    sum += (values[i] - mean) * (values[i - 1] - mean);
  }
  const double seen = sum / squares;
  const auto count = static_cast<double>(values.size());
  const double error = std::sqrt(std::max(1 - seen * seen, 0.0) / count);
  return std::clamp(seen + (1 + 4 * seen) / count + error, 0.0, 0.99);
}

/// Values that one independent one is worth, in a process of this correlation.
double inefficiency(double correlation) { return (1 + correlation) / (1 - correlation); }

/// Per value, if it is hardly chance; else 0.
double trend(Values means, double mean, double size) {
  const double middle = (kBatches - 1) / 2.0;
  double sum = 0, spread = 0;
  for (int i = 0; i < kBatches; ++i) {
    sum += (i - middle) * means[static_cast<std::size_t>(i)];
    spread += (i - middle) * (i - middle);
  }
  const double slope = sum / spread;
  const double left = std::max(square_sum(means, mean) - slope * slope * spread, 0.0);
  const double error = std::sqrt(left / (kBatches - 2) / spread);
  return std::abs(slope) > kTrend * error ? std::abs(slope) / size : 0;
}

}  // namespace

std::optional<MeanEstimate> estimate_mean(const std::vector<double>& known, int total, int period,
                                          int least) {
  const Transient start = transient(known, static_cast<std::size_t>(period));
  const int settled = static_cast<int>(known.size() - start.length);
  const int smallest = (least / kBatches + period - 1) / period * period;
  const int size = std::max(settled / kBatches / period * period, smallest);
  const int length = size * kBatches;
  if (length > static_cast<int>(known.size())) return std::nullopt;
  const Values window = Values(known).last(static_cast<std::size_t>(length));
  const std::vector<double> batches = batch_means(window, static_cast<std::size_t>(size));
  const std::vector<double> irregular = without_period(window, static_cast<std::size_t>(period));
  const double mean = mean_of(window);
  const double rest = total - static_cast<double>(known.size());

  const double between = correlation(batches, mean), within = correlation(irregular, 0);
  const double variance = square_sum(irregular, 0) / (length - period);
  const double independent = length / inefficiency(within);
  double error = kT3 * std::sqrt(variance);
  if (start.over && length <= settled && independent >= kFewIndependent) {
    const double of_batches =
        square_sum(batches, mean) / (kBatches - 1) * size * inefficiency(between);
    const double of_values = variance * inefficiency(within);
    error = (independent >= kManyIndependent ? kT9 : kT3) *
            std::sqrt(std::max(of_batches, of_values) * (1.0 / length + 1 / rest));
  }
  const double drift = trend(batches, mean, size) * (rest + length) / 2;
  const double whole = (mean_of(known) * static_cast<double>(known.size()) + mean * rest) / total;
  return MeanEstimate{length, mean, (error + drift) * rest / total / whole};
}

}  // namespace gearshift::sim
