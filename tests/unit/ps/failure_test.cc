#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <utility>

#include "cluster.h"
#include "gearshift/base/log.h"
#include "ps/links.h"
#include "ps/protocol.h"
#include "support/ranks.h"

namespace gearshift::ps {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

Commit step_with_loss(std::int64_t step, double loss = std::nan("")) {
  return {.step = step, .loss = loss, .present = {}, .hypers = {0.25, 0.25}};
}

/// These tests provoke errors: their log lines would bury what matters.
class Quiet : public ::testing::Test {
 protected:
  Quiet() : before_(base::log_level()) { base::set_log_level(base::LogLevel::kOff); }
  ~Quiet() override { base::set_log_level(before_); }

 private:
  const base::LogLevel before_;
};
class Divergence : public Quiet {};
class Failure : public Quiet {};

/// Ends the job as its owner would, so that nobody waits for the broken shard.
base::Error end_job(Cluster& cluster, int ranks) {
  const base::Error failure = cluster.wait_for_failure();
  for (int r = 0; r < ranks; ++r) cluster.group(r).abort(failure);
  return failure;
}

TEST_F(Divergence, NamesTheGradientThatIsNotFinite) {
  Cluster cluster({.workers = 2, .consistency = Consistency::asp()});
  cluster.fill_gradients(1, 1);
  ASSERT_TRUE(cluster.push(1, step_with_loss(1)).ok());
  cluster.fill_gradients(0, 1);
  set_value(cluster.model, cluster.gradients(0), 5, 77, NAN);
  auto task = cluster.scheduler().spawn("worker", [&] {
    auto reply = cluster.push(0, step_with_loss(1));
    EXPECT_FALSE(reply.ok());
  });
  const base::Error failure = end_job(cluster, 2);
  EXPECT_EQ(failure.code, base::ErrorCode::kDiverged);
  EXPECT_EQ(failure.culprit, 0);
  EXPECT_THAT(failure.message, AllOf(HasSubstr("worker 0, step 1, staleness 1"),
                                     HasSubstr("learning rate 0.25"), HasSubstr("SSP")));
}

TEST_F(Divergence, AnInfiniteLoss) {
  Cluster cluster({.consistency = Consistency::ssp(1)});
  auto task = cluster.scheduler().spawn(
      "worker", [&] { EXPECT_FALSE(cluster.push(0, step_with_loss(1, INFINITY)).ok()); });
  EXPECT_EQ(end_job(cluster, 1).code, base::ErrorCode::kDiverged);
}

TEST_F(Divergence, ALossThatRunsAway) {
  Cluster cluster({.consistency = Consistency::asp()});
  int failed_at = 0;
  auto task = cluster.scheduler().spawn("worker", [&] {
    for (int step = 1; step <= 200; ++step) {
      const double loss = step < 100 ? 1 + 0.5 * (step % 2) : std::exp(0.2 * (step - 100));
      if (cluster.push(0, step_with_loss(step, loss)).ok()) continue;
      failed_at = step;
      return;
    }
  });
  const base::Error failure = end_job(cluster, 1);
  task->join();
  EXPECT_EQ(failure.code, base::ErrorCode::kDiverged);
  EXPECT_THAT(failure.message, HasSubstr("more than 10 times (divergence_factor; with 0 "));
  EXPECT_GT(failed_at, 105);
  EXPECT_LT(failed_at, 150);
}

/// Learning that is lost without an explosion is told, once; training goes on.
TEST(Collapse, IsTold) {
  for (const bool collapses : {true, false}) {
    Cluster cluster({.consistency = Consistency::asp()});
    ::testing::internal::CaptureStderr();
    for (int step = 1; step <= 600; ++step) {
      // ln 10 is the loss of ten classes without knowledge.
      const double learned = std::max(0.5, 2.303 - 0.02 * step);
      const bool gone = collapses ? step > 200 : step % 50 < 10;
      const double loss = (gone ? 2.303 : learned) + 0.05 * (step % 3 - 1);
      ASSERT_TRUE(cluster.push(0, step_with_loss(step, loss)).ok()) << step;
    }
    const std::string log = ::testing::internal::GetCapturedStderr();
    const std::size_t first = log.find("training forgets: the smoothed loss had fallen from 2.");
    EXPECT_EQ(first != std::string::npos, collapses) << log;
    if (!collapses) continue;
    EXPECT_EQ(log.find("training forgets", first + 1), std::string::npos) << "once";
    EXPECT_THAT(log, AllOf(HasSubstr("to 0.49"), HasSubstr("and is back at 2."),
                           HasSubstr("worker 0, step 2"), HasSubstr("lower the learning rate")));
  }
}

/// Late in training, where batches differ by half of a loss that hardly falls any more.
TEST(Collapse, IsNotSeenInNoise) {
  std::mt19937 random(11);
  std::gamma_distribution<double> batch(4, 0.05);  // 0.2 on average, give or take 0.1
  ::testing::internal::CaptureStderr();
  for (int run = 0; run < 20; ++run) {
    Cluster cluster({.consistency = Consistency::asp()});
    for (int step = 1; step <= 2000; ++step) {
      ASSERT_TRUE(cluster.push(0, step_with_loss(step, batch(random))).ok());
    }
  }
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
}

TEST_F(Divergence, ALossThatFallsIsFine) {
  Cluster cluster({.consistency = Consistency::asp()});
  for (int step = 1; step <= 100; ++step) {
    ASSERT_TRUE(cluster.push(0, step_with_loss(step, 100.0 / step)).ok());
  }
  EXPECT_FALSE(cluster.failed());
}

TEST_F(Divergence, ALossThatStandsOutNowAndThenIsFine) {
  // A model that knows its data by heart, but for a few samples with wrong labels.
  Cluster cluster({.consistency = Consistency::asp()});
  for (int step = 1; step <= 200; ++step) {
    const double loss = step > 20 && step % 15 == 0 ? 0.3 : 1e-4;
    ASSERT_TRUE(cluster.push(0, step_with_loss(step, loss)).ok()) << step;
  }
  EXPECT_FALSE(cluster.failed());
}

TEST_F(Divergence, ALossThatStaysHighIsFoundSoon) {
  Cluster cluster({.consistency = Consistency::asp()});
  int failed_at = 0;
  auto task = cluster.scheduler().spawn("worker", [&] {
    for (int step = 1; step <= 200 && failed_at == 0; ++step) {
      if (!cluster.push(0, step_with_loss(step, step <= 100 ? 1 : 1e9)).ok()) failed_at = step;
    }
  });
  EXPECT_EQ(end_job(cluster, 1).code, base::ErrorCode::kDiverged);
  task->join();
  EXPECT_LE(failed_at, 110);
}

TEST_F(Failure, WorkersAtDifferentSteps) {
  Cluster cluster({.workers = 2});
  auto tasks = cluster.scheduler().spawn("workers", [&] {
    testing::run_ranks(cluster.scheduler(), 2,
                       [&](int w) { EXPECT_FALSE(cluster.push(w, step_with_loss(1 + w)).ok()); });
  });
  EXPECT_EQ(end_job(cluster, 2).code, base::ErrorCode::kMismatch);
}

TEST_F(Failure, GarbageFromAPeer) {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    Cluster cluster({.workers = 2, .servers = {0}});
    std::vector<std::byte> head = encode(Head{.kind = static_cast<Kind>(random() % 12),
                                              .request = 1,
                                              .slice = static_cast<std::uint32_t>(random() % 5),
                                              .attempt = random() % 3,
                                              .step = static_cast<std::int64_t>(random()) - 9});
    std::vector<std::byte> body(random() % 200);
    for (auto& b : body) b = static_cast<std::byte>(random());
    if (round % 4 == 0) head.resize(random() % (head.size() + 1));
    if (round % 4 == 1 && !head.empty()) head[random() % head.size()] = std::byte{0xEE};
    if (round % 4 == 2) {
      auto commit = encode(CommitRecord{
          .step = 1, .samples = 1, .attempts = {1, 2, 3}, .present = {}, .hypers = {1, 1}});
      commit[random() % commit.size()] = static_cast<std::byte>(random());
      body = commit;
      head = encode(Head{.kind = Kind::kCommit, .request = 1});
    }
    (void)cluster.group(1)
        .link(base::Rank(0))
        .send(request_tag(3), {head.data(), head.size()}, {body.data(), body.size()});
    // Whatever it was: the shard either lives, or said why not.
    cluster.shard(0).stop();
    if (cluster.failed()) {
      EXPECT_EQ(cluster.wait_for_failure().code, base::ErrorCode::kProtocol);
      EXPECT_THAT(cluster.wait_for_failure().message, HasSubstr("rank 1"));
    }
  }
}

TEST_F(Failure, GarbageIsReported) {
  const std::vector<std::pair<Head, std::size_t>> wrong = {
      {{.kind = static_cast<Kind>(99)}, 0},
      {{.kind = Kind::kStage, .slice = 99, .attempt = 1}, 8},
      {{.kind = Kind::kStage, .slice = 0, .attempt = 1}, 8},
      {{.kind = Kind::kCommit, .request = 1}, 3},
      {{.kind = Kind::kStoreState, .request = 1}, 3},
      {{.kind = Kind::kStoreParameters, .request = 1, .slice = 1}, 3},
      {{.kind = Kind::kEnter, .request = 1, .step = -5}, 0},
  };
  for (const auto& [head, bytes] : wrong) {
    Cluster cluster({.workers = 2, .servers = {0}});
    const auto encoded = encode(head);
    const std::vector<std::byte> body(bytes);
    (void)cluster.group(1)
        .link(base::Rank(0))
        .send(request_tag(3), {encoded.data(), encoded.size()}, {body.data(), body.size()});
    const base::Error failure = cluster.wait_for_failure();
    EXPECT_EQ(failure.code, base::ErrorCode::kProtocol) << failure.message;
    EXPECT_EQ(failure.culprit, 1);
  }
}

TEST_F(Failure, OnlyWorkersCommit) {
  Cluster cluster({.workers = 1, .servers = {0}, .ranks = 2});
  const auto head = encode(Head{.kind = Kind::kLeave, .request = 1});
  (void)cluster.group(1).link(base::Rank(0)).send(request_tag(3), {head.data(), head.size()}, {});
  EXPECT_THAT(cluster.wait_for_failure().message, HasSubstr("no worker"));
}

void lose_a_server(const std::string& transport) {
  Cluster cluster({.workers = 2, .servers = {0, 2}, .transport = transport});
  const base::TimePoint start = cluster.scheduler().now();
  auto task = cluster.scheduler().spawn("worker", [&] {
    auto reply = cluster.push(0, step_with_loss(12));
    ASSERT_FALSE(reply.ok());
    EXPECT_EQ(reply.error().code, base::ErrorCode::kPeerLost);
    EXPECT_EQ(reply.error().culprit, 2);
    EXPECT_THAT(reply.error().message, HasSubstr("push step 12"));
  });
  while (cluster.group(0).progress().snapshot().operation != "push step 12") {
    cluster.scheduler().sleep_for(std::chrono::milliseconds(1));
  }
  cluster.group(2).abort({base::ErrorCode::kAborted, "killed"});
  // Shard 0 is well and waits for worker 1, whose step lets worker 0 come to the dead one.
  EXPECT_FALSE(cluster.push(1, step_with_loss(12)).ok());
  task->join();
  EXPECT_LT(cluster.scheduler().now() - start, std::chrono::seconds(5));
}

TEST_F(Failure, AServerThatDies) {
  for (const char* transport : {"inproc", "tcp", "shm"}) {
    SCOPED_TRACE(transport);
    lose_a_server(transport);
  }
}

TEST_F(Failure, TimeIsBounded) {
  Cluster cluster({.workers = 2, .servers = {1}, .timeout = std::chrono::milliseconds(100)});
  auto reply = cluster.push(0, step_with_loss(3));
  ASSERT_FALSE(reply.ok());
  EXPECT_EQ(reply.error().code, base::ErrorCode::kTimeout);
  EXPECT_EQ(reply.error().culprit, -1);
  EXPECT_THAT(reply.error().message, HasSubstr("push step 3: waiting for shard 0 on rank 1"));
}

TEST_F(Failure, OptionsThatMakeNoSense) {
  Cluster cluster({.workers = 1});
  const OptimizerSpec sgd;
  const auto start = [&](ShardOptions options, const std::vector<base::ConstBytes>& values) {
    auto rule = make_optimizer(sgd, {});
    return Shard::start(cluster.group(0), cluster.group(0), std::move(options), values,
                        std::move(*rule), 0);
  };
  EXPECT_FALSE(start({.model = 5,
                      .slices = {},
                      .consistency = Consistency::ssp(-1),
                      .optimizer = {},
                      .on_commit = {},
                      .on_failure = {}},
                     {})
                   .ok());
  EXPECT_FALSE(start({.model = 5,
                      .workers = 9,
                      .slices = {},
                      .consistency = {},
                      .optimizer = {},
                      .on_commit = {},
                      .on_failure = {}},
                     {})
                   .ok());
  EXPECT_FALSE(start({.model = 5,
                      .slices = {},
                      .consistency = Consistency::asp(),
                      .optimizer = {},
                      .clip_norm = 1,
                      .on_commit = {},
                      .on_failure = {}},
                     {})
                   .ok());
  EXPECT_FALSE(start({.model = 5,
                      .slices = {},
                      .consistency = {},
                      .optimizer = {},
                      .on_commit = {},
                      .on_failure = {}},
                     {base::ConstBytes()})
                   .ok());
}

}  // namespace
}  // namespace gearshift::ps
