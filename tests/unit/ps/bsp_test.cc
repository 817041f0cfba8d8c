#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "cluster.h"
#include "reference.h"
#include "support/ranks.h"

namespace gearshift::ps {
namespace {

struct Rule {
  std::string name;
  std::string kind;
  Reference::Hyper hyper;
};

const std::vector<Rule>& rules() {
  static const std::vector<Rule> all = {
      {"sgd", "sgd", {{"lr", 0.05}, {"weight_decay", 1e-2}}},
      {"momentum", "sgd", {{"lr", 0.02}, {"momentum", 0.9}, {"dampening", 0.1}}},
      {"nesterov", "sgd", {{"lr", 0.02}, {"momentum", 0.9}, {"nesterov", 1}}},
      {"adam", "adam", {{"lr", 0.01}, {"betas.0", 0.9}, {"betas.1", 0.99}, {"eps", 1e-8}}},
      {"amsgrad",
       "adam",
       {{"lr", 0.01}, {"betas.0", 0.8}, {"betas.1", 0.9}, {"eps", 1e-6}, {"amsgrad", 1}}},
      {"adamw",
       "adamw",
       {{"lr", 0.01}, {"betas.0", 0.9}, {"betas.1", 0.99}, {"eps", 1e-8}, {"weight_decay", 0.1}}},
      {"adagrad",
       "adagrad",
       {{"lr", 0.1}, {"lr_decay", 1e-2}, {"eps", 1e-10}, {"initial_accumulator_value", 0.1}}},
  };
  return all;
}

/// What the run is made of, so that workers and reference compute the same.
double samples_of(int worker, int step) { return (worker * 7 + step * 3) % 5; }
bool has_gradient(int worker, int step, std::size_t parameter) {
  if (parameter == 3) return step % 3 == 0 && worker % 2 == 0;
  return parameter != 5 || step > 10;
}
double gradient_of(int worker, int step, std::size_t p, std::size_t i, double value) {
  return 0.2 * value + std::sin(worker + 0.1 * step + static_cast<double>(p + i));
}

/// One process that sees all workers' gradients.
class Sequential {
 public:
  Sequential(const Model& model, const Rule& rule)
      : model_(model), rule_(rule), reference_(rule.kind) {
    for (std::size_t p = 0; p < model.parameters.size(); ++p) {
      auto& v = values.emplace_back();
      for (std::size_t i = 0; i < model.parameters[p].size; ++i) v.push_back(initial_value(p, i));
    }
  }

  void step(int workers, int step, double clip) {
    double total = 0;
    for (int w = 0; w < workers; ++w) total += samples_of(w, step);
    if (total == 0) return;
    std::vector<std::vector<double>> mean(values.size());
    double squares = 0;
    for (std::size_t p = 0; p < values.size(); ++p) {
      for (int w = 0; w < workers; ++w) {
        if (!has_gradient(w, step, p) || samples_of(w, step) == 0) continue;
        mean[p].resize(values[p].size());
        for (std::size_t i = 0; i < values[p].size(); ++i) {
          mean[p][i] += samples_of(w, step) / total * gradient_of(w, step, p, i, values[p][i]);
        }
      }
      for (const double g : mean[p]) squares += g * g;
    }
    const double factor = clip > 0 ? std::min(1.0, clip / (std::sqrt(squares) + 1e-6)) : 1;
    for (std::size_t p = 0; p < values.size(); ++p) {
      if (mean[p].empty()) continue;
      for (double& g : mean[p]) g *= factor;
      Reference::Hyper hyper = rule_.hyper;
      hyper["lr"] *= model_.parameters[p].group == 1 ? 0.5 : 1;
      reference_.update(p, values[p], mean[p], hyper);
    }
  }

  std::vector<std::vector<double>> values;

 private:
  const Model& model_;
  const Rule& rule_;
  Reference reference_;
};

Commit commit_of(const Model& model, const Rule& rule, int worker, int step) {
  Commit commit{.step = step, .samples = samples_of(worker, step), .present = {}, .hypers = {}};
  for (std::size_t p = 0; p < model.parameters.size(); ++p) {
    commit.present.push_back(has_gradient(worker, step, p));
  }
  for (int group = 0; group < 2; ++group) {
    for (const auto& [name, value] : rule.hyper) {
      commit.hypers.push_back(name == "lr" && group == 1 ? value * 0.5 : value);
    }
  }
  return commit;
}

void train(Cluster& cluster, const Rule& rule, int worker, int steps, double clip_norm) {
  auto pulled = cluster.client(worker).pull(views(cluster.parameters(worker)));
  ASSERT_TRUE(pulled.ok()) << pulled.error().message;
  for (int step = 1; step <= steps; ++step) {
    for (std::size_t p = 0; p < cluster.model.parameters.size(); ++p) {
      for (std::size_t i = 0; i < cluster.model.parameters[p].size; ++i) {
        const double value = value_of(cluster.model, cluster.parameters(worker), p, i);
        // What is absent must not matter, even if it is a NaN.
        const double gradient =
            has_gradient(worker, step, p) ? gradient_of(worker, step, p, i, value) : std::nan("");
        set_value(cluster.model, cluster.gradients(worker), p, i, gradient);
      }
    }
    Commit commit = commit_of(cluster.model, rule, worker, step);
    commit.clip_norm = clip_norm;
    auto reply = cluster.push(worker, commit);
    ASSERT_TRUE(reply.ok()) << reply.error().message;
    EXPECT_EQ(reply->staleness, 0);
  }
}

void expect_equal(Cluster& cluster, int worker, const Sequential& expected, double tolerance) {
  for (std::size_t p = 0; p < expected.values.size(); ++p) {
    for (std::size_t i = 0; i < expected.values[p].size(); ++i) {
      const double want = expected.values[p][i];
      const double got = value_of(cluster.model, cluster.parameters(worker), p, i);
      ASSERT_NEAR(got, want, tolerance * std::max(1.0, std::abs(want)))
          << "worker " << worker << ", parameter " << p << ", element " << i;
    }
  }
}

void compare(ClusterOptions options, const Rule& rule, int steps, double tolerance,
             double clip_per_step = 0) {
  options.optimizer = {.kind = rule.kind, .hyper_names = {}, .param_groups = 2};
  for (const auto& [name, value] : rule.hyper) options.optimizer.hyper_names.push_back(name);
  Cluster cluster(options);
  Sequential expected(cluster.model, rule);
  testing::run_ranks(cluster.scheduler(), options.workers,
                     [&](int worker) { train(cluster, rule, worker, steps, clip_per_step); });
  const double clip = clip_per_step > 0 ? clip_per_step : options.clip_norm;
  for (int step = 1; step <= steps; ++step) expected.step(options.workers, step, clip);
  for (int w = 0; w < options.workers; ++w) expect_equal(cluster, w, expected, tolerance);
  EXPECT_FALSE(cluster.failed());
}

TEST(Bsp, EqualsOneProcessForEveryRule) {
  for (const Rule& rule : rules()) {
    SCOPED_TRACE(rule.name);
    compare({.workers = 3, .servers = {0, 1}}, rule, 100, 1e-12);
  }
}

TEST(Bsp, EqualsOneProcessForEveryShape) {
  const Rule& momentum = rules()[1];
  const Rule& adam = rules()[3];
  for (int workers = 1; workers <= 4; ++workers) {
    for (const std::vector<int>& servers :
         {std::vector<int>{0}, std::vector<int>{0, 1, 2}, std::vector<int>{4, 5},
          std::vector<int>{0, 1, 2, 3, 4, 5, 6}}) {
      SCOPED_TRACE(std::to_string(workers) + " workers, " + std::to_string(servers.size()) +
                   " shards from rank " + std::to_string(servers[0]));
      compare({.workers = workers, .servers = servers}, momentum, 30, 1e-12);
      compare({.workers = workers, .servers = servers}, adam, 30, 1e-12);
    }
  }
}

TEST(Bsp, EqualsOneProcessOverEveryTransport) {
  for (const char* transport : {"tcp", "shm"}) {
    SCOPED_TRACE(transport);
    compare({.workers = 3, .servers = {0, 1, 3}, .clip_norm = 1, .transport = transport},
            rules()[3], 60, 1e-12);
  }
}

TEST(Bsp, ClipsTheNormAcrossShards) {
  for (const double clip : {0.5, 5.0, 1e6}) {
    SCOPED_TRACE(clip);
    compare({.workers = 2, .servers = {0, 1, 2}, .clip_norm = clip}, rules()[1], 50, 1e-12);
    compare({.workers = 2, .servers = {1}, .clip_norm = clip}, rules()[1], 50, 1e-12);
    compare({.workers = 3, .servers = {0, 2}, .clip_norm = 2}, rules()[1], 50, 1e-12, clip);
  }
}

/// Runs the workers until a shard fails, and ends the job as its owner would: nobody else tells
/// them that their server has given up.
base::Error failure_of(Cluster& cluster, int workers, const std::function<void(int)>& work) {
  auto task = cluster.scheduler().spawn(
      "workers", [&] { testing::run_ranks(cluster.scheduler(), workers, work); });
  const base::Error failure = cluster.wait_for_failure();
  for (int w = 0; w < workers; ++w) cluster.group(w).abort(failure);
  task->join();
  return failure;
}

TEST(Bsp, RefusesToClipForSomeWorkersOnly) {
  Cluster cluster({.workers = 2, .servers = {0}});
  const base::Error error = failure_of(cluster, 2, [&](int worker) {
    cluster.fill_gradients(worker, 1);
    Commit commit = commit_of(cluster.model, rules()[0], worker, 1);
    commit.hypers = {0.1, 0.1};
    commit.clip_norm = worker == 0 ? 2.5 : 0;
    EXPECT_FALSE(cluster.push(worker, commit).ok());
  });
  EXPECT_EQ(error.code, base::ErrorCode::kMismatch);
  EXPECT_NE(error.message.find("worker 0 asks for it to be clipped to 2.5, worker 1 does not"),
            std::string::npos)
      << error.message;
}

TEST(Bsp, RefusesDifferentRates) {
  Cluster cluster({.workers = 3, .servers = {0}});
  const auto push = [&](int worker, int step, double rate) {
    cluster.fill_gradients(worker, 1);
    // Of a worker without samples nothing is applied, so its numbers do not matter.
    const double samples = step == 1 && worker == 2 ? 0 : 1;
    return cluster.push(worker,
                        {.step = step, .samples = samples, .present = {}, .hypers = {0.5, rate}});
  };
  const base::Error error = failure_of(cluster, 3, [&](int worker) {
    EXPECT_TRUE(push(worker, 1, worker == 2 ? 7 : 0.5).ok());
    EXPECT_FALSE(push(worker, 2, worker == 1 ? 0.25 : 0.5).ok());
  });
  EXPECT_EQ(error.code, base::ErrorCode::kMismatch);
  EXPECT_EQ(error.culprit, 1);
  EXPECT_NE(error.message.find("settings of step 2: in param group 1 worker 0 has lr 0.5, "
                               "worker 1 has 0.25"),
            std::string::npos)
      << error.message;
}

TEST(Bsp, Float32AndBfloat16) {
  for (const Rule& rule : rules()) {
    SCOPED_TRACE(rule.name);
    compare({.workers = 2, .servers = {0, 1}, .dtype = base::DType::kF32}, rule, 100, 1e-4);
  }
  compare({.workers = 2, .servers = {0, 1}, .dtype = base::DType::kBF16}, rules()[0], 20, 0.1);
}

}  // namespace
}  // namespace gearshift::ps
