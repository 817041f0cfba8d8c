// Receives are posted ahead of their turn. No message may land in memory that is still needed,
// however early it comes.

#include <gtest/gtest.h>

#include <latch>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "collectives/in_flight.h"
#include "collectives/schedule.h"
#include "collectives/segments.h"
#include "gearshift/collectives/collectives.h"
#include "world.h"

namespace gearshift::collectives::testing {
namespace {

/// A send that reads its memory as late as it may: when somebody waits for it.
class LateSend final : public transport::RequestState {
 public:
  LateSend(std::shared_ptr<transport::Connection> below, transport::Tag tag, base::ConstBytes body)
      : below_(std::move(below)), tag_(tag), body_(body) {}

  base::Status wait(base::TimePoint deadline) override {
    if (!sent_) request_ = below_->send(tag_, {}, body_);
    sent_ = true;
    return request_.wait(deadline);
  }
  bool done() const override { return sent_ && request_.done(); }

 private:
  const std::shared_ptr<transport::Connection> below_;
  const transport::Tag tag_;
  const base::ConstBytes body_;
  transport::Request request_;
  bool sent_ = false;
};

class LateLink final : public transport::Connection {
 public:
  explicit LateLink(std::shared_ptr<transport::Connection> below) : below_(std::move(below)) {}
  transport::Request send(transport::Tag tag, base::ConstBytes, base::ConstBytes body) override {
    return transport::Request(std::make_shared<LateSend>(below_, tag, body));
  }
  transport::Request recv(transport::Tag tag, base::Bytes into) override {
    return below_->recv(tag, into);
  }
  base::Rank peer() const override { return below_->peer(); }
  transport::Capabilities capabilities() const override { return below_->capabilities(); }
  transport::Traffic traffic() const override { return below_->traffic(); }
  void abort(base::Error reason) override { below_->abort(std::move(reason)); }
  void close(base::TimePoint deadline) override { below_->close(deadline); }

 private:
  const std::shared_ptr<transport::Connection> below_;
};

/// The same rank, whose sends are late.
group::Group late(const group::Group& group) {
  auto links = group.links();
  for (auto& link : links) {
    if (link) link = std::make_shared<LateLink>(link);
  }
  group::Group made(group.context(), group.rank(), std::move(links), 7);
  made.set_topology(group.topology());
  return made;
}

/// Sums whole numbers over all ranks, of which `slow` is the late one.
void check_sums(World& world, int slow, Algorithm algorithm, std::size_t count) {
  SCOPED_TRACE(std::string(to_string(algorithm)) + ", " + std::to_string(count) +
               " elements, rank " + std::to_string(slow) + " late");
  const auto term = [](int rank, std::size_t i) {
    return static_cast<float>((i * 7 + static_cast<std::size_t>(rank) * 13) % 1000);
  };
  world.run([&](group::Group& plain) {
    const int rank = plain.rank().value;
    group::Group group = rank == slow ? late(plain) : plain.with_channel(7);
    std::vector<float> data(count);
    for (std::size_t i = 0; i < count; ++i) data[i] = term(rank, i);
    const auto status =
        all_reduce(group, std::as_writable_bytes(std::span(data)), base::DType::kF32,
                   base::ReduceOp::kSum, {.algorithm = algorithm});
    ASSERT_TRUE(status.ok()) << status.error().to_string();
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < count; ++i) {
      float sum = 0;
      for (int r = 0; r < world.size(); ++r) sum += term(r, i);
      if (data[i] != sum) ++wrong;
    }
    EXPECT_EQ(wrong, 0u) << "on rank " << rank;
  });
}

class AheadOf : public ::testing::TestWithParam<int> {};

TEST_P(AheadOf, SumsAreRightHoweverLateARankSends) {
  World world(inproc_wire(), GetParam());
  std::vector<int> host_of(static_cast<std::size_t>(GetParam()));
  std::iota(host_of.begin(), host_of.end(), 0);
  for (int& host : host_of) host /= 2;
  world.place(host_of);
  // Parts of several segments, of just under one, and of one element.
  const std::size_t segment = kSegmentBytes / sizeof(float);
  for (const std::size_t each : {6 * segment + 5, segment / 2, std::size_t{1}}) {
    for (const Algorithm algorithm : kAllAlgorithms) {
      for (const int slow : {0, GetParam() - 1}) {
        check_sums(world, slow, algorithm, each * host_of.size());
      }
    }
  }
}

/// Over links that take many segments at once: more than are posted ahead elsewhere.
TEST(Ahead, SumsAreRightWhereLinksAreLong) {
  World world(inproc_wire(), 3);
  world.place({0, 1, 2}, {.remote = {.latency = 1, .seconds_per_byte = 1e-9}});
  EXPECT_EQ(in_flight(world.at(0)), kMostInFlight);
  for (const Algorithm algorithm : kAllAlgorithms) {
    for (const int slow : {0, 2}) {
      check_sums(world, slow, algorithm, 70 * kSegmentBytes / sizeof(float) + 5);
    }
  }
}

/// Rank 1 sends an array to rank 2, late, and gets another one from rank 0 in its place, which is
/// there before it begins.
TEST(Ahead, WhatIsStillToBeSentIsNotReplaced) {
  for (const std::size_t segments : {1, 3, 40}) {
    SCOPED_TRACE(segments);
    World world(inproc_wire(), 3);
    std::latch sent(1);
    world.run([&](group::Group& plain) {
      const int rank = plain.rank().value;
      group::Group group = rank == 1 ? late(plain) : plain.with_channel(7);
      Operation operation(group, "test", "chain", {});
      std::vector<float> data(1000, static_cast<float>(rank));
      const base::Bytes bytes = std::as_writable_bytes(std::span(data));
      Schedule schedule{.segments = segments, .unit = sizeof(float), .dtype = base::DType::kF32};
      schedule.steps.resize(2);
      if (rank == 0) schedule.steps[1] = {.to = 1, .send = bytes};
      if (rank == 1) schedule.steps = {{.to = 2, .send = bytes}, {.from = 0, .into = bytes}};
      if (rank == 2) schedule.steps[0] = {.from = 1, .into = bytes};
      if (rank == 1) sent.wait();
      ASSERT_TRUE(run(operation, schedule).ok());
      if (rank == 0) sent.count_down();
      EXPECT_EQ(data, std::vector<float>(1000, rank == 2 ? 1.0F : 0.0F)) << "rank " << rank;
    });
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, AheadOf, ::testing::Values(2, 3, 4, 5, 7));

}  // namespace
}  // namespace gearshift::collectives::testing
