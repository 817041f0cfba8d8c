#include <gtest/gtest.h>

#include <cmath>
#include <utility>

#include "cluster.h"

namespace gearshift::ps {
namespace {

const OptimizerSpec kAdam{.kind = "adam", .hyper_names = {"lr"}, .param_groups = 2};

/// `count` steps of one worker; the gradient depends on step, parameter and value.
void train(Cluster& cluster, int first, int count) {
  const Model& model = cluster.model;
  for (int step = first; step < first + count; ++step) {
    for (std::size_t p = 0; p < model.parameters.size(); ++p) {
      for (std::size_t i = 0; i < model.parameters[p].size; ++i) {
        const double v = value_of(model, cluster.parameters(0), p, i);
        set_value(model, cluster.gradients(0), p, i,
                  v + std::sin(step + 0.3 * static_cast<double>(i)));
      }
    }
    Commit commit{.step = step, .present = {}, .hypers = {0.01, 0.02}};
    commit.present.assign(model.parameters.size(), true);
    commit.present[3] = step % 2 == 0;
    commit.present[6] = false;
    auto reply = cluster.push(0, commit);
    ASSERT_TRUE(reply.ok()) << reply.error().message;
  }
}

std::vector<base::ConstBytes> const_views(const Buckets& buckets) {
  std::vector<base::ConstBytes> all;
  for (const base::Buffer& b : buckets) all.push_back(b.view());
  return all;
}

TEST(State, MovesToServersCutOtherwise) {
  Cluster whole({.servers = {0}, .optimizer = kAdam});
  ASSERT_TRUE(whole.client(0).pull(views(whole.parameters(0))).ok());
  train(whole, 1, 10);
  auto state = whole.client(0).fetch_state(whole.model.sizes(), whole.model.dtypes());
  ASSERT_TRUE(state.ok()) << state.error().message;
  ASSERT_EQ(state->size(), 7U);
  EXPECT_EQ((*state)[0].scalars.at("step"), 10);
  EXPECT_EQ((*state)[3].scalars.at("step"), 5);
  EXPECT_TRUE((*state)[6].tensors.empty());
  EXPECT_EQ((*state)[5].tensors.at("exp_avg").size(), 256 * sizeof(double));

  for (const std::vector<int>& servers : {std::vector<int>{0, 1, 2}, std::vector<int>{1}}) {
    Cluster cut({.servers = servers, .optimizer = kAdam, .transport = "tcp"});
    ASSERT_TRUE(cut.client(0).store_state(*state).ok());
    ASSERT_TRUE(cut.client(0).store_parameters(const_views(whole.parameters(0))).ok());
    ASSERT_TRUE(cut.client(0).pull(views(cut.parameters(0))).ok());
    auto again = cut.client(0).fetch_state(cut.model.sizes(), cut.model.dtypes());
    ASSERT_TRUE(again.ok());
    for (std::size_t p = 0; p < state->size(); ++p) {
      EXPECT_EQ((*again)[p].scalars, (*state)[p].scalars);
      ASSERT_EQ((*again)[p].tensors.size(), (*state)[p].tensors.size());
      for (const auto& [name, tensor] : (*state)[p].tensors) {
        const base::Buffer& other = (*again)[p].tensors.at(name);
        ASSERT_EQ(other.size(), tensor.size());
        EXPECT_TRUE(tensor.empty() || std::memcmp(other.data(), tensor.data(), tensor.size()) == 0);
      }
    }
    // Both go on alike from here; `whole` is trained only for its first comparison.
    if (servers.size() == 3) {
      train(whole, 11, 10);
      train(cut, 11, 10);
      for (std::size_t b = 0; b < whole.parameters(0).size(); ++b) {
        for (std::size_t i = 0; i < whole.model.bucket_bytes[b] / sizeof(double); ++i) {
          ASSERT_EQ(get(base::DType::kF64, const_views(whole.parameters(0))[b], i),
                    get(base::DType::kF64, const_views(cut.parameters(0))[b], i));
        }
      }
      state = whole.client(0).fetch_state(whole.model.sizes(), whole.model.dtypes());
      ASSERT_TRUE(state.ok());
    }
  }
}

TEST(State, RefusesWhatDoesNotFit) {
  Cluster cluster({.servers = {0}, .optimizer = kAdam});
  EXPECT_FALSE(cluster.client(0).fetch_state({1, 2}, {}).ok());
  std::vector<StateEntry> state(1);
  state[0].tensors.emplace("exp_avg", base::Buffer(8));
  EXPECT_FALSE(cluster.client(0).store_state(state).ok());
  EXPECT_FALSE(cluster.client(0).store_parameters({}).ok());
  EXPECT_FALSE(cluster.failed());
  EXPECT_TRUE(cluster.client(0).store_state({}).ok());
}

TEST(Shard, OneAfterTheOtherOnTheSameModel) {
  Cluster cluster({.workers = 1, .servers = {0}});
  cluster.fill_gradients(0, 1);
  const Commit commit{.step = 1, .present = {}, .hypers = {1, 1}};
  ASSERT_TRUE(cluster.push(0, commit).ok());
  cluster.shard(0).stop();
  cluster.shard(0).stop();

  // A request that is there before the next shard listens is answered by it.
  auto early = cluster.scheduler().spawn(
      "early", [&] { EXPECT_TRUE(cluster.client(0).pull(views(cluster.parameters(0))).ok()); });
  std::vector<base::Buffer> values;
  std::vector<base::ConstBytes> initial;
  for (const Slice& s : cluster.layout().shards[0]) {
    std::memset(values.emplace_back(s.bytes).data(), 0, s.bytes);
  }
  for (const base::Buffer& v : values) initial.push_back(v.view());
  const OptimizerSpec sgd{.kind = "sgd", .hyper_names = {"lr"}, .param_groups = 2};
  auto rule = make_optimizer(sgd, cluster.layout().shards[0]);
  auto next = Shard::start(cluster.group(0), cluster.group(0),
                           {.model = 3,
                            .slices = cluster.layout().shards[0],
                            .consistency = {},
                            .optimizer = sgd,
                            .on_commit = {},
                            .on_failure = {}},
                           initial, std::move(*rule), 1);
  ASSERT_TRUE(next.ok());
  early->join();
  EXPECT_EQ(value_of(cluster.model, cluster.parameters(0), 0, 3), 0);
}

}  // namespace
}  // namespace gearshift::ps
