#pragma once

#include <exception>
#include <string>

#include "gearshift/base/result.h"

namespace gearshift::sim {

/// Calls a method of a learner's. What it throws becomes an error: nobody would catch it below a
/// simulated task, whose stack is its own.
template <typename Call>
auto call_learner(Call call) -> decltype(call()) {
  std::string what = "an exception that is no std::exception";
  try {
    return call();
  } catch (const std::exception& thrown) {
    what = thrown.what();
  } catch (...) {
  }
  return base::Error(base::ErrorCode::kInvalidArgument, "the learner threw: " + what);
}

}  // namespace gearshift::sim
