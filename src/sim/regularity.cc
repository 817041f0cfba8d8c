#include "sim/regularity.h"

#include <algorithm>
#include <numeric>
#include <variant>

#include "sim/pace.h"

namespace gearshift::sim {
namespace {

bool is_constant(const Variability& variability) {
  const auto& factors = variability.factors;
  switch (variability.kind) {
    case Variability::Kind::kConstant:
      return true;
    case Variability::Kind::kNormal:
    case Variability::Kind::kLogNormal:
      return variability.spread == 0;
    case Variability::Kind::kEmpirical:
      break;
  }
  return std::all_of(factors.begin(), factors.end(),
                     [&](double factor) { return factor == factors.front(); });
}

/// From which step on a straggler does the same in every period; absent: never.
std::optional<Regularity> regularity_of(const Straggler& straggler, std::int64_t steps) {
  if (straggler.from_step > steps) return Regularity{};
  if (straggler.to_step > 0 && straggler.to_step < steps) return Regularity{straggler.to_step + 1};
  switch (straggler.kind) {
    case Straggler::Kind::kFixed:
      return Regularity{straggler.from_step};
    case Straggler::Kind::kPeriodic:
      return Regularity{straggler.from_step, straggler.period};
    case Straggler::Kind::kRandom:
      break;
  }
  return std::nullopt;
}

/// The first step after all switches; absent: it is not known.
std::optional<std::int64_t> last_phase(const strategy::Strategy& strategy) {
  const auto* switching = std::get_if<strategy::StrategySwitch>(&strategy.kind);
  if (switching == nullptr) return 1;
  std::int64_t last = 0;
  for (const auto& policy : {switching->policy, switching->back}) {
    if (!policy) continue;
    const auto known = policy->known_step(strategy.total_steps);
    if (!known) return std::nullopt;
    last = std::max(last, *known);
  }
  return last + 1;
}

bool varies(const SimulationOptions& options) {
  return !is_constant(options.cluster.variability.value_or(options.workload.variability));
}

/// What workers train with once all switches are over.
strategy::Phase final_phase(const strategy::Strategy& strategy) {
  const auto* switching = std::get_if<strategy::StrategySwitch>(&strategy.kind);
  if (switching != nullptr) return switching->back ? switching->start : switching->then;
  if (const auto* local = std::get_if<strategy::LocalSgd>(&strategy.kind)) return *local;
  if (const auto* server = std::get_if<strategy::ParameterServer>(&strategy.kind)) return *server;
  return std::get<strategy::AllReduce>(strategy.kind);
}

/// Whether local SGD that begins after step `before` ends with rounds that are all `every` steps
/// apart: the last one comes with the last step, whose number stays when steps are left out.
bool ends_with_whole_round(const SimulationOptions& options, int every, std::int64_t before) {
  const std::int64_t total = options.strategy.total_steps;
  return total <= 0 || (total - before) % every == 0;
}

}  // namespace

std::optional<Regularity> regularity(const SimulationOptions& options) {
  const Cluster& cluster = options.cluster;
  if (options.learner || options.timeline || !cluster.failures.empty()) return std::nullopt;
  const auto phase = last_phase(options.strategy);
  if (!phase) return std::nullopt;
  Regularity all{.from = *phase, .varies = varies(options)};
  const strategy::Phase last = final_phase(options.strategy);
  if (const auto* server = std::get_if<strategy::ParameterServer>(&last)) {
    all.loose = !server->consistency.is_synchronous();
    all.apart = all.loose && server->consistency.bound < 0;
  }
  if (const auto* local = std::get_if<strategy::LocalSgd>(&last)) {
    // How long a step takes depends on its place between two rounds.
    if (!ends_with_whole_round(options, local->every, *phase - 1)) return std::nullopt;
    if (local->every > options.steps) return std::nullopt;
    all.period = local->every;
  }
  for (const Straggler& straggler : cluster.stragglers) {
    const auto one = regularity_of(straggler, options.steps);
    // Also so that the product of periods does not overflow.
    if (!one || one->period > options.steps) return std::nullopt;
    all.from = std::max(all.from, one->from);
    all.period = std::lcm(all.period, one->period);
    if (all.period > options.steps) return std::nullopt;
  }
  return all;
}

Load load(const SimulationOptions& options) {
  Load load;
  if (!varies(options)) return load;
  const auto steps = static_cast<std::size_t>(options.steps);
  const int workers = options.cluster.workers();
  load.mean.resize(steps);
  load.most.resize(steps);
  for (int rank = 0; rank < workers; ++rank) {
    const Pace pace(options.cluster, options.workload, rank, options.seed);
    for (std::size_t i = 0; i < steps; ++i) {
      const double factor = pace.factor(static_cast<std::int64_t>(i) + 1);
      load.mean[i] += factor / workers;
      load.most[i] = std::max(load.most[i], factor);
    }
  }
  return load;
}

}  // namespace gearshift::sim
