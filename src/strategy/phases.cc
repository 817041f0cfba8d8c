#include "strategy/phases.h"

#include <algorithm>
#include <variant>

namespace gearshift::strategy {
namespace {

struct Phases {
  std::vector<Phase> operator()(const StrategySwitch& both) const {
    return {both.start, both.then};
  }
  template <typename Only>
  std::vector<Phase> operator()(const Only& only) const {
    return {only};
  }
};

}  // namespace

std::vector<Phase> phases_of(const Strategy& strategy) {
  return std::visit(Phases(), strategy.kind);
}

std::optional<AllReduce> exchange_of(const Phase& phase) {
  if (const auto* all_reduce = std::get_if<AllReduce>(&phase)) return *all_reduce;
  const auto* local = std::get_if<LocalSgd>(&phase);
  if (local == nullptr) return std::nullopt;
  return AllReduce{collectives::Algorithm::kAuto, local->compression};
}

bool has_server(const Strategy& strategy) {
  const std::vector<Phase> phases = phases_of(strategy);
  return std::any_of(phases.begin(), phases.end(), [](const Phase& phase) {
    return std::holds_alternative<ParameterServer>(phase);
  });
}

}  // namespace gearshift::strategy
