#include "strategy/flow_limits.h"

#include <gtest/gtest.h>

namespace gearshift::strategy {
namespace {

constexpr double kMbit = 1e6 / 8;

group::LinkSpeed link(double mbit, double latency = 50e-6) {
  return {.latency = latency, .seconds_per_byte = 1 / (mbit * kMbit)};
}

/// Hosts of one rank each, all at 200 Mbit/s but the last.
group::Topology one_slow(int hosts, double mbit, double latency = 50e-6) {
  const auto n = static_cast<std::size_t>(hosts);
  group::LinkSpeeds speeds{.remote = link(200), .measured = true};
  std::vector<int> labels;
  for (std::size_t a = 0; a < n; ++a) {
    labels.push_back(static_cast<int>(a));
    for (std::size_t b = 0; b < n; ++b) {
      speeds.between.push_back(a + 1 == n || b + 1 == n ? link(mbit, latency) : link(200));
    }
  }
  return group::Topology(labels, speeds);
}

TEST(FlowLimits, AllOthersTogetherHaveUnderWayWhatASlowPortPassesOn) {
  const auto bytes = static_cast<double>(flow_bytes(one_slow(4, 100), 3, 0));
  EXPECT_NEAR(3 * bytes, 100 * kMbit * kUnderWaySeconds, 3);
}

TEST(FlowLimits, HoldForWhatTheSlowHostSends) {
  const group::Topology slow = one_slow(4, 100);
  EXPECT_EQ(flow_bytes(slow, 0, 3), flow_bytes(slow, 3, 0));
  EXPECT_EQ(flow_bytes(slow, 0, 1), 0U) << "between fast hosts nothing overflows";
}

TEST(FlowLimits, AConnectionKeepsWhatALongLinkNeeds) {
  EXPECT_EQ(flow_bytes(one_slow(20, 50), 19, 0), std::size_t{48} << 10) << "the least";
  const double latency = 20e-3;
  const auto far = static_cast<double>(flow_bytes(one_slow(20, 50, latency), 19, 0));
  EXPECT_NEAR(far, 2 * 2 * latency * 50 * kMbit, 2);
}

TEST(FlowLimits, RanksOfOneHostShareItsPort) {
  group::LinkSpeeds speeds{.remote = link(1000), .measured = true};
  speeds.between = {link(1000), link(1000), link(100),  //
                    link(1000), link(1000), link(100),  //
                    link(100),  link(100),  link(100)};
  const group::Topology two_slow({0, 1, 2, 2}, speeds);
  const auto bytes = static_cast<double>(flow_bytes(two_slow, 2, 0));
  EXPECT_NEAR(2 * 2 * bytes, 100 * kMbit * kUnderWaySeconds, 4);
}

TEST(FlowLimits, ASingleLinkThatWasMeasuredTooSlowIsNotLimited) {
  group::LinkSpeeds speeds{.remote = link(200), .measured = true};
  speeds.between = {link(200), link(200), link(140),  //
                    link(200), link(200), link(200),  //
                    link(140), link(200), link(200)};
  EXPECT_EQ(flow_bytes(group::Topology({0, 1, 2}, speeds), 2, 0), 0U) << "both are fast elsewhere";
  speeds.between[2] = speeds.between[6] = link(50);
  EXPECT_GT(flow_bytes(group::Topology({0, 1, 2}, speeds), 2, 0), 0U) << "that is no chance";
}

TEST(FlowLimits, NothingIsLimitedWhereHostsAreEquallyFastOrNothingIsKnown) {
  const group::Topology equal = one_slow(4, 190);
  EXPECT_EQ(flow_bytes(equal, 3, 0), 0U);
  group::LinkSpeeds assumed = one_slow(4, 50).speeds();
  assumed.measured = false;
  EXPECT_EQ(flow_bytes(group::Topology({0, 1, 2, 3}, assumed), 3, 0), 0U);
  EXPECT_EQ(flow_bytes(one_slow(4, 50), 3, 3), 0U) << "the own host";
}

TEST(FlowLimits, WhatWorkersSendToADedicatedServerIsLimitedWhereHostsAreEqual) {
  const group::Topology equal = one_slow(4, 200);
  EXPECT_EQ(server_flow_bytes(equal, 3, 0, 3), kServerFlowBytes);
  EXPECT_EQ(server_flow_bytes(equal, 3, 3, 3), 0U) << "the own host";
  EXPECT_EQ(server_flow_bytes(equal, 3, 0, 1), 0U) << "one worker overflows nothing";
  EXPECT_EQ(server_flow_bytes(one_slow(4, 200, 10e-3), 3, 0, 3), 0U) << "a long link needs more";
  group::LinkSpeeds assumed = equal.speeds();
  assumed.measured = false;
  EXPECT_EQ(server_flow_bytes(group::Topology({0, 1, 2, 3}, assumed), 3, 0, 3), 0U);
}

}  // namespace
}  // namespace gearshift::strategy
