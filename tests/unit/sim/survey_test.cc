// What a survey measures on links that are known exactly, since they are simulated.

#include "gearshift/collectives/survey.h"

#include <gtest/gtest.h>

#include "clusters.h"
#include "in_child.h"
#include "sim/job.h"

namespace gearshift::sim::testing {
namespace {

struct Surveyed {
  group::LinkSpeeds speeds;
  double seconds = 0;
};

Surveyed survey_of(const Cluster& cluster, base::Duration late_by = {}) {
  Surveyed result;
  auto job = Job::create(cluster, std::chrono::hours(1), 256 * 1024);
  EXPECT_TRUE(job.ok());
  const base::Status status =
      (*job)->run([&](int rank, strategy::Environment environment) -> base::Status {
        base::Scheduler& clock = (*job)->scheduler();
        if (rank == 1) clock.sleep_until(clock.now() + late_by);
        const base::TimePoint begin = clock.now();
        GEARSHIFT_ASSIGN_OR_RETURN(
            const auto topology,
            collectives::survey(*environment.world, {.measure = collectives::Measure::kAlways}));
        if (rank != 1) return {};
        result = {topology->speeds(), base::to_seconds(clock.now() - begin)};
        return {};
      });
  EXPECT_TRUE(status.ok()) << status.error().to_string();
  return result;
}

struct Case {
  int hosts;
  double mbit;
};

class SurveyOfTokenBuckets : public ::testing::TestWithParam<Case> {};

// tc tbf and many clouds let through some milliseconds' worth at once, here 4 ms: a survey that
// ends too early sees a link many times as fast as it is.
TEST_P(SurveyOfTokenBuckets, FindsTheRateAndNotTheBurst) {
  in_child([&] {
    const double rate = GetParam().mbit * 1e6 / 8;
    Cluster cluster = ideal_cluster(GetParam().hosts, rate);
    for (Host& host : cluster.hosts) {
      host.latency = 50e-6;
      host.burst = static_cast<std::int64_t>(0.004 * rate);
    }
    const Surveyed found = survey_of(cluster, std::chrono::milliseconds(30));
    ASSERT_TRUE(found.speeds.measured);
    const auto hosts = static_cast<std::size_t>(GetParam().hosts);
    for (std::size_t link = 0; link < hosts * hosts; ++link) {
      if (link % (hosts + 1) == 0) continue;  // a host and itself
      EXPECT_NEAR(found.speeds.between[link].seconds_per_byte * rate, 1, 0.3) << "link " << link;
      EXPECT_NEAR(found.speeds.between[link].latency, 100e-6, 20e-6) << "link " << link;
    }
    EXPECT_LT(found.seconds, 1.5);
  });
}

INSTANTIATE_TEST_SUITE_P(Rates, SurveyOfTokenBuckets,
                         ::testing::Values(Case{2, 50}, Case{4, 50}, Case{8, 50}, Case{16, 50},
                                           Case{4, 200}, Case{8, 1000}, Case{4, 10000},
                                           Case{40, 100}),
                         [](const auto& i) {
                           return std::to_string(i.param.hosts) + "_hosts_" +
                                  std::to_string(static_cast<int>(i.param.mbit)) + "_mbit";
                         });

TEST(SimulatedSurvey, TellsASlowHostFromFastOnes) {
  in_child([] {
    Cluster cluster = ideal_cluster(4, 25e6);
    for (Host& host : cluster.hosts) {
      host.latency = 50e-6;
      host.burst = 32000;
    }
    cluster.hosts[3].bandwidth = 6.25e6;
    const group::LinkSpeeds speeds = survey_of(cluster).speeds;
    for (std::size_t a = 0; a < 4; ++a) {
      for (std::size_t b = 0; b < 4; ++b) {
        if (a == b) continue;
        const double rate = a == 3 || b == 3 ? 6.25e6 : 25e6;
        EXPECT_NEAR(speeds.between[a * 4 + b].seconds_per_byte * rate, 1, 0.2) << a << " to " << b;
      }
    }
  });
}

}  // namespace
}  // namespace gearshift::sim::testing
