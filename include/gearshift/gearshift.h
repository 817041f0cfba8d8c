#pragma once

/// Everything that a training program in C++ needs.

#include "gearshift/collectives/collectives.h"
#include "gearshift/runtime/session.h"
#include "gearshift/strategy/config.h"
#include "gearshift/strategy/local_optimizer.h"
#include "gearshift/strategy/replica.h"

namespace gearshift {

using collectives::all_gather;
using collectives::all_reduce;
using collectives::all_to_all;
using collectives::barrier;
using collectives::broadcast;
using collectives::reduce_scatter;
using group::Group;
using runtime::Session;
using runtime::SessionOptions;
using strategy::AllReduce;
using strategy::Compression;
using strategy::LocalOptimizer;
using strategy::LocalSgd;
using strategy::ParameterServer;
using strategy::Replica;
using strategy::Strategy;
using strategy::StrategySwitch;

}  // namespace gearshift
