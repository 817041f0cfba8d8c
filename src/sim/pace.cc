#include "sim/pace.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numbers>
#include <numeric>

namespace gearshift::sim {
namespace {

/// splitmix64: a good hash of a counter, so that every number can be asked for by itself.
/// Source: G. Steele, D. Lea, C. Flood, "Fast splittable pseudorandom number generators", 2014.
std::uint64_t mix(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15ULL;
  x = (x ^ (x >> 30U)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27U)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31U);
}

/// In (0, 1).
double uniform(std::uint64_t seed, std::uint64_t stream, std::uint64_t index) {
  const std::uint64_t bits = mix(mix(mix(seed) ^ stream) ^ index);
  return (static_cast<double>(bits >> 11U) + 0.5) * 0x1p-53;
}

/// Box and Muller's way from two uniform numbers to a normal one.
double normal(std::uint64_t seed, std::uint64_t stream, std::uint64_t index) {
  const double radius = std::sqrt(-2 * std::log(uniform(seed, stream, 2 * index)));
  return radius * std::cos(2 * std::numbers::pi * uniform(seed, stream, 2 * index + 1));
}

constexpr double kLeastFactor = 0.05;
constexpr std::uint64_t kStragglerStream = 1ULL << 32U;

double mean_of(const Variability& variability) {
  const auto& factors = variability.factors;
  if (factors.empty()) return 1;
  return std::accumulate(factors.begin(), factors.end(), 0.0) / static_cast<double>(factors.size());
}

}  // namespace

Pace::Pace(const Cluster& cluster, const Workload& workload, int rank, std::uint64_t seed)
    : cluster_(cluster),
      host_(cluster.hosts[static_cast<std::size_t>(cluster.host_of(rank))]),
      variability_(cluster.variability ? *cluster.variability : workload.variability),
      mean_(mean_of(variability_)),
      rank_(rank),
      seed_(seed) {}

double Pace::factor(std::int64_t step) const {
  return variation(step) * straggling(step) / host_.speed;
}

double Pace::variation(std::int64_t step) const {
  const auto stream = static_cast<std::uint64_t>(rank_);
  const auto index = static_cast<std::uint64_t>(step);
  const double spread = variability_.spread;
  switch (variability_.kind) {
    case Variability::Kind::kConstant:
      return 1;
    case Variability::Kind::kNormal:
      return std::max(kLeastFactor, 1 + spread * normal(seed_, stream, index));
    case Variability::Kind::kLogNormal:
      // Its mean is exp(spread²/2) without the correction.
      return std::exp(spread * normal(seed_, stream, index) - spread * spread / 2);
    case Variability::Kind::kEmpirical:
      break;
  }
  const auto& factors = variability_.factors;
  const auto pick =
      static_cast<std::size_t>(uniform(seed_, stream, index) * static_cast<double>(factors.size()));
  return factors[std::min(pick, factors.size() - 1)] / mean_;
}

double Pace::straggling(std::int64_t step) const {
  double factor = 1;
  std::uint64_t index = 0;
  for (const Straggler& straggler : cluster_.stragglers) {
    ++index;
    if (straggler.host != host_.name || step < straggler.from_step) continue;
    if (straggler.to_step > 0 && step > straggler.to_step) continue;
    bool slow = true;
    if (straggler.kind == Straggler::Kind::kPeriodic) {
      slow = (step - straggler.from_step) % straggler.period < straggler.length;
    } else if (straggler.kind == Straggler::Kind::kRandom) {
      // The host is slow, so all of its workers are slow in the same step.
      const std::uint64_t stream = kStragglerStream + index;
      slow = uniform(seed_, stream, static_cast<std::uint64_t>(step)) < straggler.probability;
    }
    if (slow) factor *= straggler.factor;
  }
  return factor;
}

}  // namespace gearshift::sim
