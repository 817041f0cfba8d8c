#pragma once

#include "gearshift/sim/workload.h"
#include "sim/toml_reader.h"

namespace gearshift::sim {

/// Reads a [variability] table; its values are not checked yet. Errors go to the table's file.
Variability read_variability(TomlTable& table);

}  // namespace gearshift::sim
