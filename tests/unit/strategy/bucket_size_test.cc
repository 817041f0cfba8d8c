#include "strategy/bucket_size.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <numeric>
#include <vector>

namespace gearshift::strategy {
namespace {

constexpr std::size_t kKiB = 1 << 10;
constexpr std::size_t kMiB = 1 << 20;
constexpr std::size_t kUsual = kUsualBucketBytes;

/// A rank on each of `hosts`.
group::Topology equal_links(int hosts, double latency, double bandwidth, bool measured = true) {
  std::vector<int> host_of(static_cast<std::size_t>(hosts));
  std::iota(host_of.begin(), host_of.end(), 0);
  group::LinkSpeeds speeds;
  speeds.remote = {.latency = latency, .seconds_per_byte = 1 / bandwidth};
  speeds.reduce_seconds_per_byte = 0;
  speeds.measured = measured;
  return group::Topology(host_of, speeds);
}

TEST(BucketSize, IsTheUsualOneWhereNothingIsKnownOfWires) {
  const group::Topology assumed = equal_links(4, 1e-4, 1e8, false);
  const group::Topology host = group::Topology::one_host(4, equal_links(1, 1e-4, 1e8).speeds());
  for (const Phase& phase : {Phase(AllReduce{}), Phase(ParameterServer{})}) {
    EXPECT_EQ(best_bucket_bytes(100 * kMiB, phase, nullptr, 4), kUsual);
    EXPECT_EQ(best_bucket_bytes(100 * kMiB, phase, &assumed, 4), kUsual);
    EXPECT_EQ(best_bucket_bytes(100 * kMiB, phase, &host, 4), kUsual);
  }
}

TEST(BucketSize, FollowsTheSquareRoot) {
  // Between two ranks, recursive doubling takes latency + bytes / bandwidth.
  const AllReduce doubling{collectives::Algorithm::kRecursiveDoubling};
  for (const double latency : {20e-6, 100e-6, 1e-3}) {
    for (const double bandwidth : {12e6, 120e6, 1.2e9}) {
      for (const std::size_t model : {300 * kKiB, 4 * kMiB, 100 * kMiB}) {
        const group::Topology two = equal_links(2, latency, bandwidth);
        const double exact = std::sqrt(static_cast<double>(model) * bandwidth * latency);
        const double chosen = static_cast<double>(best_bucket_bytes(model, doubling, &two, 2));
        if (exact < 64.0 * kKiB || exact > 16.0 * kMiB || exact > model / 3.0) continue;
        EXPECT_GE(chosen, exact / 2) << latency << " s, " << bandwidth << " B/s, " << model;
        EXPECT_LE(chosen, exact * 2) << latency << " s, " << bandwidth << " B/s, " << model;
      }
    }
  }
}

TEST(BucketSize, KeepsASmallModelTogetherOverALongLink) {
  const group::Topology far = equal_links(4, 20e-3, 12e6);
  EXPECT_GE(best_bucket_bytes(300 * kKiB, AllReduce{}, &far, 4), 300 * kKiB);
  const group::Topology near = equal_links(4, 60e-6, 120e6);
  EXPECT_LE(best_bucket_bytes(300 * kKiB, AllReduce{}, &near, 4), 128 * kKiB);
}

TEST(BucketSize, StaysWithinItsLimits) {
  const group::Topology quick = equal_links(4, 1e-6, 12e6);
  const group::Topology slow = equal_links(4, 1, 12e9);
  EXPECT_EQ(best_bucket_bytes(kMiB, AllReduce{}, &quick, 4), 64 * kKiB);
  EXPECT_EQ(best_bucket_bytes(1000 * kMiB, AllReduce{}, &slow, 4), 128 * kMiB);
  EXPECT_EQ(best_bucket_bytes(1000 * kMiB, ParameterServer{}, &slow, 4), 4 * kMiB);
  EXPECT_GT(best_bucket_bytes(0, AllReduce{}, &quick, 4), 0U);
  EXPECT_GT(best_bucket_bytes(0, ParameterServer{}, &quick, 4), 0U);
}

TEST(BucketSize, ExceedsItsLimitWhereLatencyIsMostOfATransfer) {
  const AllReduce doubling{collectives::Algorithm::kRecursiveDoubling};
  const auto chosen = [&](double latency, double bandwidth) {
    const group::Topology two = equal_links(2, latency, bandwidth);
    return best_bucket_bytes(1000 * kMiB, doubling, &two, 2);
  };
  // sqrt(model · bandwidth · latency): 18 MiB, and 112 MiB, of which 64 MiB are within a tenth.
  EXPECT_EQ(chosen(1e-3, 300e6), 16 * kMiB);
  EXPECT_EQ(chosen(10e-3, 1.2e9), 64 * kMiB);
  const group::Topology two = equal_links(2, 10e-3, 1.2e9);
  EXPECT_EQ(best_bucket_bytes(1000 * kMiB, LocalSgd{}, &two, 2), 64 * kMiB);
  EXPECT_EQ(best_bucket_bytes(1000 * kMiB, ParameterServer{}, &two, 2), kUsual);
}

TEST(BucketSize, CountsTheMessagesToEachShard) {
  const group::Topology few = equal_links(4, 100e-6, 1.2e9);
  const group::Topology many = equal_links(64, 100e-6, 1.2e9);
  EXPECT_LT(best_bucket_bytes(2 * kMiB, ParameterServer{}, &few, 4),
            best_bucket_bytes(2 * kMiB, ParameterServer{}, &many, 64));
}

TEST(BucketSize, IsTheUsualOneOfServersUnlessLinksAreInBalance) {
  const group::Topology equal = equal_links(4, 60e-6, 120e6);
  group::LinkSpeeds speeds = equal.speeds();
  for (int a = 0; a < 4; ++a) {
    for (int b = 0; b < 4; ++b) {
      speeds.between.push_back({60e-6, (a == 3 || b == 3 ? 4 : 1) / 120e6});
    }
  }
  const group::Topology uneven({0, 1, 2, 3}, speeds);
  ParameterServer bsp;
  ParameterServer one = bsp;
  one.shards = 1;
  const ParameterServer asp{ps::Consistency::asp()};
  const ParameterServer ssp{ps::Consistency::ssp(2)};
  EXPECT_LT(best_bucket_bytes(2 * kMiB, bsp, &equal, 4), kMiB);
  EXPECT_LT(best_bucket_bytes(2 * kMiB, ssp, &equal, 4), kMiB);
  EXPECT_EQ(best_bucket_bytes(2 * kMiB, one, &equal, 4), kUsual);
  EXPECT_EQ(best_bucket_bytes(2 * kMiB, asp, &equal, 4), kUsual);
  EXPECT_EQ(best_bucket_bytes(2 * kMiB, bsp, &uneven, 4), kUsual);
  EXPECT_LT(best_bucket_bytes(2 * kMiB, AllReduce{}, &equal, 4), kMiB);
  EXPECT_GE(best_bucket_bytes(2 * kMiB, AllReduce{}, &uneven, 4), kUsual);
}

TEST(BucketSize, IsASliceForEachDedicatedServer) {
  const group::Topology topology_of_six = equal_links(6, 60e-6, 120e6);
  EXPECT_EQ(best_bucket_bytes(40 * kMiB, ParameterServer{}, &topology_of_six, 5), 512 * kKiB);
  EXPECT_EQ(best_bucket_bytes(40 * kMiB, ParameterServer{}, &topology_of_six, 4), kMiB);
  const group::Topology many = equal_links(36, 60e-6, 120e6);
  EXPECT_EQ(best_bucket_bytes(40 * kMiB, ParameterServer{}, &many, 20), 8 * kMiB);
}

TEST(BucketSize, GrowsWithTheShardsOfWorkersThatAreNotKeptTogether) {
  const auto best = [](std::size_t mebibytes, const ParameterServer& server, int workers) {
    const group::Topology links = equal_links(workers, 60e-6, 120e6);
    return best_bucket_bytes(mebibytes * kMiB, server, &links, workers);
  };
  ParameterServer server{ps::Consistency::asp()};
  EXPECT_EQ(best(100, server, 8), kUsual);
  EXPECT_EQ(best(100, server, 16), 8 * kMiB);
  EXPECT_EQ(best(100, server, 64), 16 * kMiB);
  EXPECT_EQ(best(24, server, 64), 6 * kMiB) << "several buckets";
  EXPECT_EQ(best(10, server, 64), kUsual) << "not worth it";
  server.consistency = ps::Consistency::ssp(3);
  EXPECT_EQ(best(100, server, 16), 8 * kMiB);
  EXPECT_LE(best(100, server, 8), kUsual);
  server.shards = 2;
  EXPECT_EQ(best(100, server, 16), kUsual);
  EXPECT_LE(best(100, ParameterServer{}, 16), kUsual) << "BSP keeps workers together";
}

/// Half as long on their way, slices are passed by commits where they are twice as large.
TEST(BucketSize, IsTwiceThatOfServersThatGetHalves) {
  const group::Topology links = equal_links(16, 60e-6, 120e6);
  for (const auto& consistency : {ps::Consistency::asp(), ps::Consistency::ssp(3)}) {
    ParameterServer server{consistency};
    server.compression = Compression::kBf16;
    EXPECT_EQ(best_bucket_bytes(100 * kMiB, server, &links, 16), 16 * kMiB);
  }
  ParameterServer dedicated;
  dedicated.compression = Compression::kBf16;
  const group::Topology six = equal_links(6, 60e-6, 120e6);
  EXPECT_EQ(best_bucket_bytes(40 * kMiB, dedicated, &six, 5), kMiB);
  EXPECT_EQ(best_bucket_bytes(40 * kMiB, dedicated, &six, 4), 2 * kMiB);
  EXPECT_EQ(best_bucket_bytes(40 * kMiB, dedicated, &links, 10), 6 * kMiB);
}

}  // namespace
}  // namespace gearshift::strategy
