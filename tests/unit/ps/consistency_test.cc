#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <vector>

#include "cluster.h"
#include "support/ranks.h"

namespace gearshift::ps {
namespace {

constexpr std::size_t kWhole = 5;  ///< a parameter that shards split

Commit step_of(std::int64_t step, double samples = 1) {
  return {.step = step, .samples = samples, .loss = std::nan(""), .present = {}, .hypers = {1, 1}};
}

/// Change of the parameters since the beginning; checks that it is the same everywhere.
double moved(Cluster& cluster, int worker) {
  const double first = value_of(cluster.model, cluster.parameters(worker), 0, 0);
  for (std::size_t p : {std::size_t{0}, std::size_t{1}, kWhole}) {
    const std::size_t last = cluster.model.parameters[p].size - 1;
    const double change =
        value_of(cluster.model, cluster.parameters(worker), p, last) - initial_value(p, last);
    EXPECT_NEAR(change, first - initial_value(0, 0), 1e-12);
  }
  return first - initial_value(0, 0);
}

double pulled(Cluster& cluster, int worker) {
  EXPECT_TRUE(cluster.client(worker).pull(views(cluster.parameters(worker))).ok());
  return moved(cluster, worker);
}

Reply pushed(Cluster& cluster, int worker, double gradient, const Commit& commit) {
  cluster.fill_gradients(worker, gradient);
  auto reply = cluster.push(worker, commit);
  EXPECT_TRUE(reply.ok()) << reply.error().message;
  return reply.ok() ? *reply : Reply{};
}

TEST(Consistency, TextRoundTrip) {
  for (const Consistency& c : {Consistency::bsp(), Consistency::asp(), Consistency::ssp(3),
                               Consistency::buffered(4), Consistency::buffered(4, 8)}) {
    auto parsed = Consistency::parse(c.to_string());
    ASSERT_TRUE(parsed.ok()) << c.to_string();
    EXPECT_EQ(parsed->to_string(), c.to_string());
    EXPECT_EQ(parsed->kind, c.kind);
  }
  EXPECT_EQ(Consistency::buffered(4, 8).to_string(), "buffered(4, bound=8)");
  for (const char* wrong : {"", "bps", "ssp", "ssp()", "ssp(-1)", "ssp(x)", "buffered(0)",
                            "buffered(2, 3)", "asp(1)", "buffered(1,bound=2,3)"}) {
    EXPECT_FALSE(Consistency::parse(wrong).ok()) << wrong;
  }
}

TEST(Ssp, FastWorkerWaitsForTheSlow) {
  Cluster cluster({.workers = 2, .servers = {0, 1}, .consistency = Consistency::ssp(2)});
  pushed(cluster, 0, 1, step_of(1));
  pushed(cluster, 0, 1, step_of(2));
  std::atomic<bool> answered{false};
  auto fast = cluster.scheduler().spawn("fast", [&] {
    pushed(cluster, 0, 1, step_of(3));
    answered = true;
  });
  for (const int k : {0, 1}) {
    while (cluster.shard(k).stats().commits < 3) {
      cluster.scheduler().sleep_for(std::chrono::milliseconds(1));
    }
  }
  // A round trip through both shards: had they answered, the answer would have left before.
  pulled(cluster, 1);
  cluster.scheduler().sleep_for(std::chrono::milliseconds(20));
  EXPECT_FALSE(answered);
  pushed(cluster, 1, 1, step_of(1));
  fast->join();
  EXPECT_TRUE(answered);
  EXPECT_EQ(cluster.shard(0).stats().max_lead, 2);
}

/// Also where it waited for the slow, and was answered with what they had made meanwhile.
TEST(Ssp, TellsAWorkerItsLead) {
  Cluster cluster({.workers = 2, .servers = {0, 1}, .consistency = Consistency::ssp(2)});
  EXPECT_EQ(pushed(cluster, 0, 1, step_of(1)).lead, 1);
  EXPECT_EQ(pushed(cluster, 0, 1, step_of(2)).lead, 2);
  Reply late;
  auto fast = cluster.scheduler().spawn("fast", [&] { late = pushed(cluster, 0, 1, step_of(3)); });
  EXPECT_EQ(pushed(cluster, 1, 1, step_of(1)).lead, 0);
  fast->join();
  EXPECT_EQ(late.lead, 2);
}

TEST(Ssp, LeadNeverExceedsTheBound) {
  for (const int bound : {0, 1, 3}) {
    Cluster cluster({.workers = 3, .servers = {0, 2}, .consistency = Consistency::ssp(bound)});
    testing::run_ranks(cluster.scheduler(), 3, [&](int w) {
      for (int step = 1; step <= 30; ++step) {
        if (w == 1) cluster.scheduler().sleep_for(std::chrono::microseconds(300));
        pushed(cluster, w, 0.01, step_of(step));
      }
    });
    for (const int k : {0, 1}) {
      EXPECT_LE(cluster.shard(k).stats().max_lead, bound);
      EXPECT_EQ(cluster.shard(k).stats().applies, 90);
    }
    EXPECT_NEAR(pulled(cluster, 0), -0.9, 1e-9);
  }
}

TEST(Ssp, LeavingReleasesWhoWaits) {
  Cluster cluster({.workers = 2, .consistency = Consistency::ssp(0)});
  auto fast = cluster.scheduler().spawn("fast", [&] { pushed(cluster, 0, 1, step_of(1)); });
  EXPECT_TRUE(cluster.client(1).leave(0).ok());
  fast->join();
  pushed(cluster, 0, 1, step_of(2));
  EXPECT_TRUE(cluster.client(1).enter(2).ok());
  testing::run_ranks(cluster.scheduler(), 2, [&](int w) { pushed(cluster, w, 1, step_of(3)); });
  EXPECT_NEAR(pulled(cluster, 1), -4, 1e-12);
}

TEST(Asp, OneWorkerIsSequential) {
  Cluster cluster({.servers = {0, 1, 2}, .consistency = Consistency::asp()});
  pulled(cluster, 0);
  double expected = initial_value(kWhole, 200);
  for (int step = 1; step <= 100; ++step) {
    for (std::size_t p = 0; p < cluster.model.parameters.size(); ++p) {
      for (std::size_t i = 0; i < cluster.model.parameters[p].size; ++i) {
        const double v = value_of(cluster.model, cluster.parameters(0), p, i);
        set_value(cluster.model, cluster.gradients(0), p, i, 2 * v - 0.5);
      }
    }
    Commit commit = step_of(step, 3);
    commit.hypers = {0.1, 0.1};
    auto reply = cluster.push(0, commit);
    ASSERT_TRUE(reply.ok());
    EXPECT_EQ(reply->version, step);
    EXPECT_EQ(reply->staleness, 0);
    expected -= 0.1 * (2 * expected - 0.5);
    ASSERT_NEAR(value_of(cluster.model, cluster.parameters(0), kWhole, 200), expected, 1e-12);
  }
}

TEST(Asp, TellsAWorkerItsLead) {
  Cluster cluster({.workers = 3, .servers = {0, 1}, .consistency = Consistency::asp()});
  EXPECT_EQ(pushed(cluster, 0, 1, step_of(1)).lead, 1);
  EXPECT_EQ(pushed(cluster, 1, 1, step_of(1)).lead, 1) << "worker 2 has made none";
  EXPECT_EQ(pushed(cluster, 2, 1, step_of(1)).lead, 0);
  EXPECT_EQ(pushed(cluster, 0, 1, step_of(2)).lead, 1);
  EXPECT_EQ(pushed(cluster, 0, 1, step_of(3)).lead, 2);
  EXPECT_TRUE(cluster.client(1).leave(1).ok());
  EXPECT_TRUE(cluster.client(2).leave(1).ok());
  EXPECT_EQ(pushed(cluster, 0, 1, step_of(4)).lead, 0) << "nobody else takes part";
}

TEST(Bsp, NobodyLeads) {
  Cluster cluster({.workers = 3, .servers = {0, 1}});
  testing::run_ranks(cluster.scheduler(), 3, [&](int w) {
    for (int step = 1; step <= 3; ++step) {
      EXPECT_EQ(pushed(cluster, w, 1, step_of(step)).lead, 0);
    }
  });
}

TEST(Asp, CountsStalenessAndScalesTheRate) {
  Cluster cluster({.workers = 2, .consistency = Consistency::asp(), .lr_factor = 0.5});
  pulled(cluster, 0);
  pulled(cluster, 1);
  EXPECT_EQ(pushed(cluster, 0, 1, step_of(1)).staleness, 0);
  EXPECT_EQ(pushed(cluster, 0, 1, step_of(2)).staleness, 0);
  EXPECT_EQ(pushed(cluster, 1, 1, step_of(1)).staleness, 2);
  EXPECT_EQ(pushed(cluster, 1, 1, step_of(2)).staleness, 0);
  EXPECT_EQ(cluster.shard(0).stats().max_staleness, 2);
  EXPECT_EQ(cluster.shard(0).stats().mean_staleness, 0.5);
  EXPECT_NEAR(moved(cluster, 1), -2, 1e-12);
}

TEST(Buffered, AppliesExactlyEveryM) {
  for (const int m : {1, 2, 4, 5}) {
    Cluster cluster({.workers = 3, .servers = {0, 1}, .consistency = Consistency::buffered(m)});
    testing::run_ranks(cluster.scheduler(), 3, [&](int w) {
      for (int step = 1; step <= 7; ++step) pushed(cluster, w, 1, step_of(step, 1 + w));
    });
    for (const int k : {0, 1}) {
      EXPECT_EQ(cluster.shard(k).stats().commits, 21);
      EXPECT_EQ(cluster.shard(k).stats().applies, 21 / m);
    }
    EXPECT_TRUE(cluster.client(1).flush().ok());
    EXPECT_EQ(cluster.shard(1).stats().applies, (21 + m - 1) / m);
    EXPECT_TRUE(cluster.client(1).flush().ok());
    EXPECT_EQ(cluster.shard(1).stats().applies, (21 + m - 1) / m);
    EXPECT_NEAR(pulled(cluster, 0), -((21 + m - 1) / m), 1e-12);
  }
}

TEST(Buffered, AveragesBySamples) {
  Cluster cluster({.consistency = Consistency::buffered(3, 5)});
  pushed(cluster, 0, 1, step_of(1, 1));
  pushed(cluster, 0, 2, step_of(2, 1));
  EXPECT_NEAR(moved(cluster, 0), 0, 0);
  Commit half = step_of(3, 2);
  half.gradient_factor = 0.5;
  EXPECT_EQ(pushed(cluster, 0, 12, half).version, 1);
  EXPECT_NEAR(moved(cluster, 0), -(1 + 2 + 2 * 6) / 4.0, 1e-12);
}

TEST(Buffered, SumsOfFloat16DoNotOverflowWhereTheirMeanDoesNot) {
  Cluster cluster({.dtype = base::DType::kF16, .consistency = Consistency::buffered(4, 5)});
  // 4 · 30000 is no float16; nor is 128 · 600.
  for (const auto& [step, samples, gradient] :
       {std::tuple{1, 1, 600.0}, {2, 128, 600.0}, {3, 128, 30000.0}, {4, 128, 30000.0}}) {
    Commit commit = step_of(step, samples);
    commit.hypers = {1e-3, 1e-3};
    pushed(cluster, 0, gradient, commit);
  }
  const double mean = (129 * 600.0 + 256 * 30000.0) / 385;
  const double now = value_of(cluster.model, cluster.parameters(0), kWhole, 200);
  EXPECT_NEAR(now, initial_value(kWhole, 200) - 1e-3 * mean, 0.05);
}

TEST(Bsp, LeavingAndEntering) {
  Cluster cluster({.workers = 3, .servers = {0, 1}});
  const auto all = [&](std::vector<int> who, int step) {
    testing::run_ranks(cluster.scheduler(), static_cast<int>(who.size()), [&](int i) {
      const int w = who[static_cast<std::size_t>(i)];
      pushed(cluster, w, w + 1, step_of(step));
    });
  };
  all({0, 1, 2}, 1);
  EXPECT_NEAR(moved(cluster, 0), -2, 1e-12);
  // Whoever waits goes on when the last one missing leaves.
  auto waiting = cluster.scheduler().spawn("waiting", [&] { all({0, 2}, 2); });
  EXPECT_TRUE(cluster.client(1).leave(1).ok());
  waiting->join();
  EXPECT_NEAR(moved(cluster, 2), -4, 1e-12);
  EXPECT_FALSE(cluster.push(1, step_of(2)).ok());
  EXPECT_TRUE(cluster.client(1).enter(2).ok());
  all({0, 1, 2}, 3);
  EXPECT_NEAR(moved(cluster, 1), -6, 1e-12);
}

TEST(Bsp, SkipsForEverybody) {
  Cluster cluster({.workers = 2, .servers = {0, 1}});
  testing::run_ranks(cluster.scheduler(), 2, [&](int w) {
    Commit commit = step_of(1);
    commit.skip = w == 1;
    // The one that skips has an overflow, and has staged only a part of it.
    cluster.fill_gradients(w, w == 1 ? std::nan("") : 1);
    if (w == 1) {
      EXPECT_TRUE(cluster.client(1).stage(0, cluster.gradients(1)[0].view()).ok());
      auto reply = cluster.client(1).commit(commit, views(cluster.parameters(1)));
      EXPECT_TRUE(reply.ok() && reply->skipped);
    } else {
      EXPECT_TRUE(pushed(cluster, 0, 1, commit).skipped);
    }
    EXPECT_EQ(moved(cluster, w), 0);
    EXPECT_TRUE(pushed(cluster, w, 1, step_of(2, 0)).skipped) << "no samples at all";
    EXPECT_FALSE(pushed(cluster, w, 3 + w, step_of(3, w)).skipped);
    EXPECT_NEAR(moved(cluster, w), -4, 1e-12) << "only worker 1 has samples";
  });
  EXPECT_EQ(cluster.shard(0).stats().applies, 1);
  EXPECT_EQ(cluster.shard(0).stats().commits, 6);
}

TEST(Asp, SkipsOnlyItself) {
  Cluster cluster({.workers = 2, .consistency = Consistency::asp()});
  Commit skip = step_of(1);
  skip.skip = true;
  skip.loss = INFINITY;
  EXPECT_TRUE(pushed(cluster, 0, NAN, skip).skipped);
  EXPECT_FALSE(pushed(cluster, 1, 1, step_of(1)).skipped);
  EXPECT_TRUE(pushed(cluster, 0, 1, step_of(2, 0)).skipped);
  EXPECT_NEAR(moved(cluster, 1), -1, 1e-12);
  EXPECT_FALSE(cluster.failed());
}

Commit told(std::int64_t step, double loss, double samples) {
  Commit commit = step_of(step, samples);
  commit.loss = loss;
  return commit;
}

TEST(Loss, UnderBspAllWorkersLearnTheMeanOfTheStep) {
  Cluster cluster({.workers = 3, .servers = {0, 1}});
  testing::run_ranks(cluster.scheduler(), 3, [&](int w) {
    EXPECT_TRUE(std::isnan(pushed(cluster, w, 1, told(1, std::nan(""), 1)).loss)) << "none so far";
    EXPECT_DOUBLE_EQ(pushed(cluster, w, 1, told(2, 4.0 * w, 1 + w)).loss, 32.0 / 6);
    // Worker 2 has no samples, and what it says does not count.
    EXPECT_DOUBLE_EQ(pushed(cluster, w, 1, told(3, 1 + w, w == 2 ? 0 : 2)).loss, 1.5);
    EXPECT_DOUBLE_EQ(pushed(cluster, w, 1, told(4, std::nan(""), 1)).loss, 1.5) << "the latest";
    EXPECT_TRUE(std::isnan(pushed(cluster, w, 1, told(5, w == 1 ? INFINITY : 1, 1)).loss));
  });
}

TEST(Loss, OtherwiseItIsTheMeanOfTheLatestOfEach) {
  std::vector<double> seen;  // on the shard's task
  ClusterOptions options{.workers = 2, .consistency = Consistency::asp()};
  options.on_commit = [&seen](const CommitInfo& info) -> std::optional<std::int64_t> {
    seen.push_back(info.mean_loss);
    return std::nullopt;
  };
  Cluster cluster(options);
  EXPECT_EQ(pushed(cluster, 0, 1, told(1, 8, 3)).loss, 8);
  EXPECT_EQ(pushed(cluster, 1, 1, told(1, 4, 1)).loss, 7);
  EXPECT_EQ(pushed(cluster, 0, 1, told(2, std::nan(""), 3)).loss, 7);
  EXPECT_EQ(pushed(cluster, 0, 1, told(3, 2, 1)).loss, 3);
  EXPECT_TRUE(cluster.client(1).leave(1).ok());
  EXPECT_EQ(pushed(cluster, 0, 1, told(4, 1, 1)).loss, 1);
  EXPECT_EQ(seen, (std::vector<double>{8, 7, 7, 3, 1}));
}

TEST(OnCommit, AnnouncesWhenToLeave) {
  std::vector<CommitInfo> seen;  // on one shard's task
  ClusterOptions options{.workers = 2, .servers = {0, 1}, .consistency = Consistency::asp()};
  options.on_commit = [&seen](const CommitInfo& info) -> std::optional<std::int64_t> {
    seen.push_back(info);
    if (seen.size() == 3) return 7;
    return std::nullopt;
  };
  std::vector<std::int64_t> elsewhere;  // on the other shard's task
  options.on_commit_elsewhere = [&elsewhere](const CommitInfo& info) {
    elsewhere.push_back(info.highest_step);
  };
  Cluster cluster(options);
  Commit commit = step_of(1, 4);
  commit.loss = 0.25;
  commit.epoch = 2;
  EXPECT_EQ(pushed(cluster, 0, 1, commit).leave_after, 0);
  EXPECT_EQ(pushed(cluster, 0, 1, step_of(2)).leave_after, 0);
  EXPECT_EQ(pushed(cluster, 1, 1, step_of(1)).leave_after, 7);
  EXPECT_EQ(pushed(cluster, 0, 1, step_of(3)).leave_after, 7);
  ASSERT_EQ(seen.size(), 4U);
  EXPECT_EQ(seen[0].loss, 0.25);
  EXPECT_EQ(seen[0].samples, 4);
  EXPECT_EQ(seen[0].epoch, 2);
  EXPECT_EQ(seen[2].worker, 1);
  EXPECT_EQ(seen[2].staleness, 2);
  EXPECT_EQ(seen[2].highest_step, 2);
  EXPECT_EQ(elsewhere, (std::vector<std::int64_t>{1, 2, 2, 3}));
}

/// Worker 1 has no batch in any epoch, and says so late in the last one.
TEST(OnCommit, TellsWhichEpochsAreOver) {
  std::vector<std::int64_t> earliest;  // on the shard's task
  ClusterOptions options{.workers = 2, .consistency = Consistency::asp()};
  options.on_commit = [&earliest](const CommitInfo& info) -> std::optional<std::int64_t> {
    earliest.push_back(info.earliest_epoch);
    return std::nullopt;
  };
  Cluster cluster(options);
  const auto push = [&](std::int64_t step, std::int64_t epoch) {
    Commit commit = step_of(step, 4);
    commit.epoch = epoch;
    pushed(cluster, 0, 1, commit);
  };
  push(1, 0);
  push(2, 1);
  EXPECT_TRUE(cluster.client(1).leave(0).ok());
  push(3, 1);
  EXPECT_TRUE(cluster.client(0).leave(3).ok());
  for (const int w : {0, 1}) EXPECT_TRUE(cluster.client(w).enter(3).ok());
  push(4, 2);
  push(5, 3);
  EXPECT_TRUE(cluster.client(1).leave(3).ok());
  push(6, 3);
  EXPECT_EQ(earliest, (std::vector<std::int64_t>{0, 0, 1, 1, 1, 3}));
}

}  // namespace
}  // namespace gearshift::ps
