#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "gearshift/base/scheduler.h"
#include "gearshift/group/connect.h"
#include "gearshift/ps/optimizer.h"
#include "gearshift/strategy/replica.h"

namespace gearshift::strategy::toy {

/// Least squares with two parameters vectors (weights of 37, bias of 1), float64, trained with SGD
/// and momentum: small enough to be written out by hand, rich enough to go wrong.
inline constexpr std::size_t kFeatures = 37;
inline constexpr double kLr = 0.01;
inline constexpr double kMomentum = 0.9;

inline double feature(int sample, std::size_t i) {
  return std::sin(0.37 * sample + 1.3 * static_cast<double>(i)) / 3;
}
inline double target(int sample) { return std::cos(0.21 * sample); }

struct Model {
  std::vector<double> weights = std::vector<double>(kFeatures, 0.1);
  double bias = 0.5;
};

/// Gradient of the mean squared error over samples [begin, begin + count); returns the loss.
inline double gradient(const double* weights, double bias, int begin, int count, double* dw,
                       double& db) {
  std::fill_n(dw, kFeatures, 0.0);
  db = 0;
  double loss = 0;
  for (int s = begin; s < begin + count; ++s) {
    double error = bias - target(s);
    for (std::size_t i = 0; i < kFeatures; ++i) error += weights[i] * feature(s, i);
    loss += error * error / count;
    for (std::size_t i = 0; i < kFeatures; ++i) dw[i] += 2 * error * feature(s, i) / count;
    db += 2 * error / count;
  }
  return loss;
}

/// One process on all samples of each step: the reference.
inline Model train_alone(int steps, const std::function<int(int)>& samples_of_step) {
  Model model;
  std::vector<double> dw(kFeatures), vw(kFeatures, 0.0);
  double db = 0, vb = 0;
  int next = 0;
  for (int k = 0; k < steps; ++k) {
    const int count = samples_of_step(k);
    gradient(model.weights.data(), model.bias, next, count, dw.data(), db);
    next += count;
    for (std::size_t i = 0; i < kFeatures; ++i) {
      vw[i] = kMomentum * vw[i] + dw[i];
      model.weights[i] -= kLr * vw[i];
    }
    vb = kMomentum * vb + db;
    model.bias -= kLr * vb;
  }
  return model;
}

/// A worker with an optimizer of its own (the native rule over the whole model).
class Worker final : public OptimizerBridge {
 public:
  Worker(Environment environment, Strategy strategy, std::size_t bucket_bytes = 128,
         std::uint16_t number = 0) {
    ReplicaOptions options;
    options.parameters = {{"weights", {static_cast<std::int64_t>(kFeatures)}, base::DType::kF64, 0},
                          {"bias", {}, base::DType::kF64, 0}};
    options.strategy = std::move(strategy);
    options.strategy.bucket_bytes = bucket_bytes;
    options.optimizer = spec();
    options.bridge = this;
    options.buffer_bytes = 8;
    options.model = number;
    auto made = Replica::create(environment, std::move(options));
    EXPECT_TRUE(made.ok()) << (made.ok() ? "" : made.error().to_string());
    if (!made) return;
    replica = std::move(*made);
    std::vector<ps::Slice> slices;
    const BucketPlan& plan = replica->plan();
    for (std::uint32_t p = 0; p < plan.parameters.size(); ++p) {
      const std::size_t n = plan.parameters[p].elements();
      slices.push_back({p, base::DType::kF64, 0, n * 8, {{p, 0, 0, 0, n}}});
    }
    optimizer = std::move(*ps::make_native_optimizer(spec(), slices));
    Model model;
    std::memcpy(replica->parameter(0).data(), model.weights.data(), kFeatures * 8);
    std::memcpy(replica->parameter(1).data(), &model.bias, 8);
    ok(replica->start());
  }

  static ps::OptimizerSpec spec() { return {"sgd", {"lr", "momentum"}, 1}; }
  static ps::HyperValues hypers() { return {kLr, kMomentum}; }

  void ok(const base::Status& status) { EXPECT_TRUE(status.ok()) << status.error().to_string(); }

  /// One step on samples [begin, begin + count).
  StepReport step(int begin, int count, std::int64_t epoch = 0) {
    double db = 0;
    auto* dw = reinterpret_cast<double*>(replica->gradient(0).data());
    const double loss = gradient(weights(), bias(), begin, std::max(count, 1), dw, db);
    std::memcpy(replica->gradient(1).data(), &db, 8);
    ok(replica->backward_begin(count));
    ok(replica->ready(1));
    ok(replica->ready(0));
    auto present = replica->backward_end({true, true});
    EXPECT_TRUE(present.ok()) << present.error().to_string();
    if (!present) return {};
    if (!replica->uses_server()) apply(*present);
    StepInput input;
    input.loss = loss;
    input.epoch = epoch;
    input.hypers = hypers();
    auto report = replica->step(input);
    EXPECT_TRUE(report.ok()) << report.error().to_string();
    return report.ok() ? *report : StepReport{};
  }

  void apply(const std::vector<bool>& present) {
    std::vector<ps::SegmentUpdate> updates;
    for (std::uint32_t p = 0; p < present.size(); ++p) {
      if (present[p]) updates.push_back({p, 0, replica->parameter(p), replica->gradient(p)});
    }
    ok(optimizer->apply(updates, hypers(), 1));
  }

  const double* weights() { return reinterpret_cast<const double*>(replica->parameter(0).data()); }
  double bias() { return *reinterpret_cast<const double*>(replica->parameter(1).data()); }

  void expect_equals(const Model& model, double tolerance = 1e-12) {
    for (std::size_t i = 0; i < kFeatures; ++i) {
      EXPECT_NEAR(weights()[i], model.weights[i], tolerance * std::abs(model.weights[i]) + 1e-15)
          << "weight " << i;
    }
    EXPECT_NEAR(bias(), model.bias, tolerance);
  }

  base::Result<std::vector<ps::StateEntry>> export_state() override {
    std::vector<ps::StateEntry> state(2);
    for (std::uint32_t p = 0; p < 2; ++p) {
      for (const std::string& name : optimizer->tensor_names(p, 0)) {
        base::Buffer copy(replica->parameter(p).size());
        ok(optimizer->read_tensor(p, 0, name, copy.view()));
        state[p].tensors[name] = std::move(copy);
      }
      state[p].scalars = optimizer->scalars(p, 0);
    }
    return state;
  }
  base::Status import_state(std::vector<ps::StateEntry> state) override {
    for (std::uint32_t p = 0; p < state.size(); ++p) {
      for (const auto& [name, tensor] : state[p].tensors) {
        ok(optimizer->write_tensor(p, 0, name, tensor.view()));
      }
      for (const auto& [name, value] : state[p].scalars) {
        ok(optimizer->write_scalar(p, 0, name, value));
      }
    }
    return {};
  }

  bool has_scales() const override { return true; }
  base::Result<std::vector<std::byte>> export_scales(bool /*skipped*/) override {
    const base::ConstBytes bytes = base::bytes_of(scale);
    return std::vector<std::byte>(bytes.begin(), bytes.end());
  }
  base::Status import_scales(base::ConstBytes scales) override {
    EXPECT_EQ(scales.size(), sizeof scale);
    std::memcpy(&scale, scales.data(), std::min(scales.size(), sizeof scale));
    return {};
  }

  std::unique_ptr<Replica> replica;
  std::unique_ptr<ps::Optimizer> optimizer;
  double scale = 1;  ///< of losses; nothing here multiplies by it
};

/// Runs `body(rank's environment)` on `workers` ranks as tasks, followed by `servers` dedicated
/// servers.
inline void run_ranks(int workers, int servers,
                      const std::function<void(int rank, Environment)>& body,
                      base::Duration timeout = std::chrono::seconds(20)) {
  auto scheduler = base::make_os_scheduler();
  // To connect may take longer than what is tested, on a busy machine.
  auto groups = group::make_local_groups(*scheduler, workers + servers, std::chrono::seconds(60));
  ASSERT_TRUE(groups.ok());
  for (const auto& group : *groups) group->context()->timeout = timeout;
  std::vector<std::unique_ptr<base::Task>> tasks;
  for (int r = 0; r < workers + servers; ++r) {
    tasks.push_back(scheduler->spawn("rank" + std::to_string(r), [&, r] {
      group::Group& world = *(*groups)[static_cast<std::size_t>(r)];
      auto monitor = membership::Monitor::start(world);
      Environment environment;
      environment.world = &world;
      environment.workers_count = workers;
      environment.monitor = monitor.get();
      if (r >= workers) {
        const base::Status served = run_server(environment);
        EXPECT_TRUE(served.ok()) << served.error().to_string();
        return;
      }
      std::vector<base::Rank> ranks;
      for (int w = 0; w < workers; ++w) ranks.emplace_back(w);
      group::Group group = world.subgroup(ranks, 1);
      environment.workers = &group;
      body(r, environment);
      if (servers > 0) static_cast<void>(release_servers(world, workers));
    }));
  }
  for (auto& task : tasks) task->join();
}

}  // namespace gearshift::strategy::toy
