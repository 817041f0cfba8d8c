#pragma once

#include <gtest/gtest.h>

#include <string>

#include "gearshift/sim/cluster.h"
#include "gearshift/sim/workload.h"

namespace gearshift::sim {

/// What is wrong with a file called x.toml, without "x.toml:"; "none".
template <typename Parse>
std::string error_of(Parse parse, const std::string& text) {
  const auto result = parse(text, "x.toml");
  if (result) return "none";
  EXPECT_EQ(result.error().code, base::ErrorCode::kInvalidArgument);
  const std::string& message = result.error().message;
  EXPECT_TRUE(message.starts_with("x.toml:")) << message;
  return message.substr(7);
}

inline std::string cluster_error(const std::string& text) { return error_of(parse_cluster, text); }
inline std::string workload_error(const std::string& text) {
  return error_of(parse_workload, text);
}

}  // namespace gearshift::sim
