// Gradients that travel as bfloat16.

#include <gtest/gtest.h>

#include "cluster.h"
#include "ps/links.h"
#include "ps/protocol.h"

namespace gearshift::ps {
namespace {

Commit halved_step(std::int64_t step) { return {.step = step, .present = {}, .hypers = {1, 1}}; }

/// What plain SGD with a rate of 1 made of a gradient.
double taken(Cluster& cluster, int worker) {
  return initial_value(5, 255) - value_of(cluster.model, cluster.parameters(worker), 5, 255);
}

/// Halfway between two bfloat16 numbers and a little above: rounds to 1 + 2^-7.
constexpr double kAboveTheTie = 1 + 1.0 / 256 + 1.0 / 4096;
constexpr double kRounded = 1 + 1.0 / 128;

TEST(Halved, GradientsAreRoundedToNearest) {
  for (const std::string transport : {"inproc", "shm", "tcp"}) {
    for (const auto& servers : {std::vector<int>{0}, {1}, {0, 1, 2}}) {
      Cluster cluster({.workers = 1,
                       .servers = servers,
                       .dtype = base::DType::kF32,
                       .halve_gradients = true,
                       .transport = transport});
      for (int step = 1; step <= 3; ++step) {
        cluster.fill_gradients(0, kAboveTheTie);
        auto reply = cluster.push(0, halved_step(step));
        ASSERT_TRUE(reply.ok()) << reply.error().message;
        EXPECT_NEAR(taken(cluster, 0), step * kRounded, 1e-5) << transport;
      }
    }
  }
}

TEST(Halved, OtherTypesTravelAsTheyAre) {
  Cluster cluster({.workers = 1, .servers = {1}, .halve_gradients = true});
  cluster.fill_gradients(0, kAboveTheTie);
  ASSERT_TRUE(cluster.push(0, halved_step(1)).ok());
  EXPECT_NEAR(taken(cluster, 0), kAboveTheTie, 1e-12);
}

TEST(Halved, GradientsTakeHalfTheBytes) {
  std::uint64_t sent[2];
  std::size_t model = 0;
  for (const bool halve : {false, true}) {
    Cluster cluster(
        {.workers = 1, .servers = {1}, .dtype = base::DType::kF32, .halve_gradients = halve});
    const std::uint64_t before = cluster.group(0).traffic().bytes_sent;
    ASSERT_TRUE(cluster.push(0, halved_step(1)).ok());
    sent[halve ? 1 : 0] = cluster.group(0).traffic().bytes_sent - before;
    model = 0;
    for (const Slice& slice : cluster.layout().shards[0]) model += slice.bytes;
  }
  EXPECT_EQ(2 * (sent[0] - sent[1]), model);
}

TEST(Halved, AnyOtherSizeIsRefused) {
  Cluster cluster({.workers = 1, .servers = {1}});
  const Slice& slice = cluster.layout().shards[0][0];
  const base::Buffer half(slice.bytes / 2);  // of float64: nothing that could be meant
  const auto head = encode(Head{.kind = Kind::kStage, .slice = 0, .attempt = 1});
  transport::Connection& link = link_to(cluster.group(0), base::Rank(1));
  const auto sent = link.send(request_tag(3), {head.data(), head.size()}, half.view());
  EXPECT_EQ(cluster.wait_for_failure().code, base::ErrorCode::kProtocol);
}

}  // namespace
}  // namespace gearshift::ps
