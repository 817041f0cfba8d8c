#include "sim/variability_file.h"

namespace gearshift::sim {
namespace {

constexpr std::array<std::pair<std::string_view, Variability::Kind>, 4> kVariabilityKinds{
    {{"constant", Variability::Kind::kConstant},
     {"normal", Variability::Kind::kNormal},
     {"log-normal", Variability::Kind::kLogNormal},
     {"empirical", Variability::Kind::kEmpirical}}};

}  // namespace

Variability read_variability(TomlTable& table) {
  using Kind = Variability::Kind;
  Variability variability;
  table.choice("kind", variability.kind, kVariabilityKinds);
  table.require("kind");
  table.number("spread", variability.spread);
  table.numbers("factors", variability.factors);
  const bool spreads = variability.kind == Kind::kNormal || variability.kind == Kind::kLogNormal;
  const bool empirical = variability.kind == Kind::kEmpirical;
  table.only(spreads, "spread", "with kind = \"normal\" or \"log-normal\"");
  table.only(empirical, "factors", "with kind = \"empirical\"");
  if (spreads) table.require("spread");
  if (empirical) table.require("factors");
  table.no_other_keys();
  return variability;
}

}  // namespace gearshift::sim
