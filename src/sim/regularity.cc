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

/// The parameter servers that workers train with once all switches are over, if they do.
std::optional<strategy::ParameterServer> last_server(const strategy::Strategy& strategy) {
  const auto server_of = [](const auto& phase) -> std::optional<strategy::ParameterServer> {
    const auto* server = std::get_if<strategy::ParameterServer>(&phase);
    return server != nullptr ? std::optional(*server) : std::nullopt;
  };
  const auto* switching = std::get_if<strategy::StrategySwitch>(&strategy.kind);
  if (switching == nullptr) return server_of(strategy.kind);
  return server_of(switching->back ? switching->start : switching->then);
}

}  // namespace

/// How LocalSgd is in force once all switches are over, if it is.
std::optional<strategy::LocalSgd> last_local(const strategy::Strategy& strategy) {
  const auto local_of = [](const auto& phase) -> std::optional<strategy::LocalSgd> {
    const auto* local = std::get_if<strategy::LocalSgd>(&phase);
    return local != nullptr ? std::optional(*local) : std::nullopt;
  };
  const auto* switching = std::get_if<strategy::StrategySwitch>(&strategy.kind);
  if (switching == nullptr) return local_of(strategy.kind);
  return local_of(switching->back ? switching->start : switching->then);
}

std::optional<Regularity> regularity(const SimulationOptions& options) {
  const Cluster& cluster = options.cluster;
  if (options.learner || options.timeline || !cluster.failures.empty()) return std::nullopt;
  const auto phase = last_phase(options.strategy);
  if (!phase) return std::nullopt;
  Regularity all{.from = *phase, .varies = varies(options)};
  if (const auto server = last_server(options.strategy)) {
    all.loose = !server->consistency.is_synchronous();
    all.apart = all.loose && server->consistency.bound < 0;
  }
  if (const auto local = last_local(options.strategy)) {
    // How long a step takes depends on its place between two rounds, and the last one may come
    // early.
    const std::int64_t steps = options.strategy.total_steps - (*phase - 1);
    if (all.varies || (steps > 0 && steps % local->every != 0)) return std::nullopt;
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
