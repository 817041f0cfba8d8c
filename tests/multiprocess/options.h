#pragma once

#include <cstdint>
#include <string>

#include "gearshift/gearshift.h"

namespace toy {

/// The command line of toy_trainer.
struct Options {
  std::string strategy = "all_reduce";  ///< a name that strategy_of knows
  std::int64_t steps = 0;               ///< 0: until something ends the process
  int step_ms = 0;                      ///< what a step "computes" before it communicates
  std::int64_t switch_at = 10;          ///< last step before the second phase, under switch
  std::int64_t back_at = 0;             ///< last step before the first one again; 0: never
  int switch_ms = 0;                    ///< how long the optimizer takes to hand over its state
  int end_ms = 0;                       ///< pause between the last step and the end of the session
  std::string progress;                 ///< folder for a file per rank that says where it is
};

/// Throws std::invalid_argument with what is wrong.
Options parse(int argc, char** argv);
/// all_reduce, local_sgd, bsp, ssp, asp, buffered; from All-Reduce: switch (to asp), switch_bsp,
/// switch_local. Throws std::invalid_argument for other names.
gearshift::Strategy strategy_of(const Options& options);

}  // namespace toy
