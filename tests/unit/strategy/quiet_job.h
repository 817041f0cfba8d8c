#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "gearshift/base/scheduler.h"
#include "gearshift/group/connect.h"
#include "gearshift/strategy/local_optimizer.h"
#include "gearshift/strategy/replica.h"

namespace gearshift::strategy::quiet {

/// A job whose gradients are all zero, real or phantom, without a monitor: nothing travels but
/// what the strategy sends.
struct Job {
  int workers = 3;
  int servers = 0;
  Strategy strategy{};
  ps::OptimizerSpec optimizer{"sgd", {"lr", "momentum"}, 1};
  ps::HyperValues hypers{0.1, 0.9};
  std::vector<ParameterSpec> parameters{};
  int steps = 8;
  /// Rank r makes so many steps less per r, and then joins.
  int fewer_steps = 0;
  std::vector<int> host_of{};  ///< of the workers; empty: one host
  double clip_norm = 0;        ///< of every step under a server
};

/// Buckets of one and of several parameters, of three dtypes; one of several segments and slices.
inline std::vector<ParameterSpec> mixed_parameters() {
  return {{"embedding", {400'001}, base::DType::kF32, 0},
          {"weights", {37, 11}, base::DType::kF32, 0},
          {"scale", {11}, base::DType::kF64, 0},
          {"bias", {}, base::DType::kF32, 0},
          {"half", {777}, base::DType::kF16, 0}};
}

/// What one rank saw of the job.
struct Outcome {
  std::vector<transport::Traffic> links;  ///< by peer
  std::vector<std::string> reports;       ///< of each step, and of the join
  Stats stats;
};

inline std::string text_of(const transport::Traffic& t) {
  return std::to_string(t.messages_sent) + " messages, " + std::to_string(t.bytes_sent) +
         " bytes sent; " + std::to_string(t.messages_received) + ", " +
         std::to_string(t.bytes_received) + " received";
}

inline std::string text_of(const StepReport& report, bool with_inputs) {
  std::string text = std::to_string(report.step) + (report.skipped ? " skipped" : "");
  if (!report.switched) return text;
  const SwitchRecord& s = *report.switched;
  text += " " + s.from + " to " + s.to + " after " + std::to_string(s.step) + ", " + s.policy;
  return with_inputs ? text + ": " + s.inputs : text;
}

/// One worker's part of a job.
class Worker {
 public:
  Worker(const Job& job, Environment environment, bool phantom) : job_(job) {
    auto optimizer = LocalOptimizer::create(job.parameters, job.optimizer, phantom);
    EXPECT_TRUE(optimizer.ok());
    optimizer_ = std::move(*optimizer);
    ReplicaOptions options;
    options.parameters = job.parameters;
    options.strategy = job.strategy;
    options.optimizer = job.optimizer;
    options.bridge = optimizer_.get();
    options.buffer_bytes = 5000;
    options.phantom = phantom;
    auto made = Replica::create(environment, std::move(options));
    EXPECT_TRUE(made.ok()) << made.error().to_string();
    replica_ = std::move(*made);
    ok(replica_->start());
  }

  void run(int rank, Outcome& outcome) {
    const int steps = job_.steps - job_.fewer_steps * rank;
    for (int k = 0; k < steps; ++k) outcome.reports.push_back(text_of(step(k), true));
    if (job_.fewer_steps > 0) {
      auto joined = replica_->join();
      EXPECT_TRUE(joined.ok()) << joined.error().to_string();
      if (!joined) return;
      outcome.reports.push_back("root " + std::to_string(joined->root.value) +
                                (joined->steps_differ ? " differs" : ""));
    }
    ok(replica_->stop());
    outcome.stats = replica_->stats();
  }

  StepReport step(int k) {
    ok(replica_->backward_begin(4));
    const auto count = static_cast<std::uint32_t>(job_.parameters.size());
    // Every third backward leaves a gradient to backward_end, and every fourth has one less.
    std::vector<bool> present(count, true);
    if (k % 4 == 3) present[1] = false;
    for (std::uint32_t p = count; p-- > (k % 3 == 2 ? 2U : 0U);) {
      if (present[p]) ok(replica_->ready(p));
    }
    auto reduced = replica_->backward_end(present, k % 2 == 1);
    EXPECT_TRUE(reduced.ok()) << reduced.error().to_string();
    if (!reduced) return {};
    EXPECT_EQ(*reduced, present);
    if (!replica_->uses_server()) ok(optimizer_->apply(*replica_, *reduced, job_.hypers));
    StepInput input;
    input.loss = 1.0 / (k + 1);
    input.hypers = job_.hypers;
    input.clip_norm = job_.clip_norm;
    auto report = replica_->step(input);
    EXPECT_TRUE(report.ok()) << report.error().to_string();
    return report.ok() ? *report : StepReport{};
  }

  void ok(const base::Status& status) { EXPECT_TRUE(status.ok()) << status.error().to_string(); }
  Replica& replica() { return *replica_; }
  LocalOptimizer& optimizer() { return *optimizer_; }

 private:
  const Job& job_;
  std::unique_ptr<LocalOptimizer> optimizer_;
  std::unique_ptr<Replica> replica_;
};

inline std::vector<transport::Traffic> traffic_by_link(const group::Group& group) {
  std::vector<transport::Traffic> links;
  for (const auto& link : group.links()) {
    links.push_back(link ? link->traffic() : transport::Traffic{});
  }
  return links;
}

using Inspect = std::function<void(int rank, Worker&)>;

/// Runs the job on an in-process world; returns what each rank saw, workers first.
inline std::vector<Outcome> run_on(
    base::Scheduler& scheduler, const Job& job, bool phantom,
    const Inspect& inspect = [](int, Worker&) {}) {
  const int ranks = job.workers + job.servers;
  auto groups = group::make_local_groups(scheduler, ranks, std::chrono::seconds(60));
  EXPECT_TRUE(groups.ok());
  std::vector<Outcome> outcomes(static_cast<std::size_t>(ranks));
  std::vector<std::unique_ptr<base::Task>> tasks;
  for (int r = 0; r < ranks; ++r) {
    tasks.push_back(scheduler.spawn("rank" + std::to_string(r), [&, r] {
      group::Group& world = *(*groups)[static_cast<std::size_t>(r)];
      const Environment server{nullptr, job.workers, &world, nullptr};
      if (r >= job.workers) {
        const base::Status served = run_server(server);
        EXPECT_TRUE(served.ok()) << served.error().to_string();
        return;
      }
      std::vector<base::Rank> members;
      for (int w = 0; w < job.workers; ++w) members.emplace_back(w);
      group::Group workers = world.subgroup(members, 1);
      if (!job.host_of.empty()) {
        workers.set_topology(std::make_shared<const group::Topology>(job.host_of));
      }
      Worker worker(job, {&workers, job.workers, &world, nullptr}, phantom);
      worker.run(r, outcomes[static_cast<std::size_t>(r)]);
      inspect(r, worker);
      EXPECT_TRUE(release_servers(world, job.workers).ok());
    }));
  }
  for (auto& task : tasks) task->join();
  for (int r = 0; r < ranks; ++r) {
    outcomes[static_cast<std::size_t>(r)].links =
        traffic_by_link(*(*groups)[static_cast<std::size_t>(r)]);
  }
  return outcomes;
}

inline std::vector<Outcome> run(
    const Job& job, bool phantom, const Inspect& inspect = [](int, Worker&) {}) {
  const auto scheduler = base::make_os_scheduler();
  return run_on(*scheduler, job, phantom, inspect);
}

/// The same reports, and the same number of messages and bytes on every link.
inline void expect_alike(const std::vector<Outcome>& real, const std::vector<Outcome>& phantom) {
  ASSERT_EQ(real.size(), phantom.size());
  for (std::size_t r = 0; r < real.size(); ++r) {
    EXPECT_EQ(real[r].reports, phantom[r].reports) << "rank " << r;
    EXPECT_EQ(real[r].stats.step, phantom[r].stats.step);
    EXPECT_EQ(real[r].stats.pushes, phantom[r].stats.pushes);
    EXPECT_EQ(real[r].stats.strategy, phantom[r].stats.strategy);
    ASSERT_EQ(real[r].links.size(), phantom[r].links.size());
    for (std::size_t p = 0; p < real[r].links.size(); ++p) {
      EXPECT_EQ(text_of(real[r].links[p]), text_of(phantom[r].links[p]))
          << "between ranks " << r << " and " << p;
    }
  }
}

}  // namespace gearshift::strategy::quiet
