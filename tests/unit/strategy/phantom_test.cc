// A replica of phantoms causes the messages of a real one, link by link, and holds no memory.

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>

#include "gearshift/base/bytes.h"
#include "quiet_job.h"

namespace gearshift::strategy {
namespace {

using quiet::Job;

Strategy of(decltype(Strategy::kind) kind) {
  Strategy strategy;
  strategy.kind = std::move(kind);
  strategy.bucket_bytes = 2048;
  return strategy;
}

void expect_like_real(Job job) {
  if (job.parameters.empty()) job.parameters = quiet::mixed_parameters();
  const auto real = quiet::run(job, false);
  const auto phantom = quiet::run(job, true);
  quiet::expect_alike(real, phantom);
  std::uint64_t bytes = 0;
  for (const auto& link : phantom[0].links) bytes += link.bytes_sent + link.bytes_received;
  EXPECT_TRUE(job.workers == 1 || bytes > 1'600'000U) << "the model has travelled";
}

TEST(Phantom, AllReduceByEveryAlgorithm) {
  using collectives::Algorithm;
  for (const Algorithm algorithm :
       {Algorithm::kAuto, Algorithm::kRing, Algorithm::kRecursiveDoubling, Algorithm::kRabenseifner,
        Algorithm::kTree, Algorithm::kHierarchical}) {
    for (const int workers : {1, 2, 5}) {
      SCOPED_TRACE(std::string(collectives::to_string(algorithm)) + " " + std::to_string(workers));
      Job job{.workers = workers, .strategy = of(AllReduce{algorithm}), .steps = 4};
      if (workers == 5) job.host_of = {0, 0, 1, 1, 1};
      expect_like_real(std::move(job));
    }
  }
}

class PhantomServer : public testing::TestWithParam<ps::Consistency> {};

TEST_P(PhantomServer, WithOneTwoAndNShardsInWorkers) {
  for (const int shards : {1, 2, 0}) {
    SCOPED_TRACE(shards);
    expect_like_real({.strategy = of(ParameterServer{GetParam(), shards})});
  }
}

TEST_P(PhantomServer, InProcessesOfItsOwn) {
  for (const char* rule : {"sgd", "adam"}) {
    SCOPED_TRACE(rule);
    Job job{.servers = 2, .strategy = of(ParameterServer{GetParam()})};
    job.optimizer.kind = rule;
    expect_like_real(std::move(job));
  }
}

TEST_P(PhantomServer, SwitchedToAndBack) {
  for (const int servers : {0, 2}) {
    SCOPED_TRACE(servers);
    Job job{.servers = servers,
            .strategy = of(
                StrategySwitch{AllReduce{}, ParameterServer{GetParam()}, at_step(3), at_step(6)}),
            .steps = 10};
    job.optimizer = {"adam", {"lr", "amsgrad"}, 1};
    job.hypers = {0.1, 1};
    expect_like_real(std::move(job));
  }
}

TEST_P(PhantomServer, ThatWorkersLeaveAndJoin) {
  expect_like_real({.strategy = of(ParameterServer{GetParam()}), .fewer_steps = 2});
}

std::string name_of(const testing::TestParamInfo<ps::Consistency>& info) {
  std::string name = info.param.to_string();
  std::erase_if(name, [](char c) { return std::isalnum(static_cast<unsigned char>(c)) == 0; });
  return name;
}

INSTANTIATE_TEST_SUITE_P(Consistencies, PhantomServer,
                         testing::Values(ps::Consistency::bsp(), ps::Consistency::ssp(2),
                                         ps::Consistency::asp(), ps::Consistency::buffered(3)),
                         name_of);

TEST(Phantom, RanksThatRunOutUnderAllReduce) {
  expect_like_real({.strategy = of(AllReduce{}), .fewer_steps = 2});
}

TEST(Phantom, CompressedGradients) {
  AllReduce all_reduce;
  all_reduce.compression = Compression::kBf16;
  expect_like_real({.strategy = of(all_reduce)});
  for (const auto& consistency : {ps::Consistency::bsp(), ps::Consistency::asp()}) {
    ParameterServer server{consistency};
    server.compression = Compression::kBf16;
    expect_like_real({.strategy = of(server)});
    expect_like_real({.servers = 2, .strategy = of(server)});
  }
}

TEST(Phantom, LocalSgd) {
  for (const int workers : {1, 2, 5}) {
    for (const int fewer : {0, 1}) {
      Job job{.workers = workers, .strategy = of(LocalSgd{3, 0.7, 0.9}), .fewer_steps = fewer};
      job.strategy.total_steps = 8;
      expect_like_real(std::move(job));
    }
  }
  for (const bool back : {false, true}) {
    const Phase local = LocalSgd{3};
    const Phase server = ParameterServer{ps::Consistency::bsp()};
    expect_like_real({.strategy = of(StrategySwitch{back ? server : local, back ? local : server,
                                                    at_step(4), at_step(7)})});
  }
}

TEST(Phantom, ClipsTheNormAcrossShards) {
  for (const auto& consistency : {ps::Consistency::bsp(), ps::Consistency::asp()}) {
    expect_like_real({.strategy = of(ParameterServer{consistency}), .clip_norm = 1});
  }
}

/// 4 GB per worker, with Adam's state 12 GB, in a fraction of that.
TEST(Phantom, AllocatesNothingOfTheModelsSize) {
  const auto peak = [] {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss >> 10;  // MiB
  };
  constexpr std::int64_t kElements = std::int64_t{1} << 30;
  for (const int servers : {0, 1}) {
    Job job{.servers = servers,
            .strategy = of(StrategySwitch{AllReduce{}, ParameterServer{}, at_step(2), at_step(4)}),
            .optimizer = {"adam", {"lr"}, 1},
            .hypers = {0.1},
            .parameters = {{"a", {kElements / 2}}, {"b", {kElements / 4}}, {"c", {kElements / 4}}},
            .steps = 5};
    const auto before = peak();
    quiet::run(job, true, [](int, quiet::Worker& worker) {
      EXPECT_TRUE(base::is_phantom(worker.replica().parameter(2)));
      EXPECT_TRUE(base::is_phantom(worker.replica().gradient(1)));
      EXPECT_TRUE(base::is_phantom(worker.replica().buffers()));
      EXPECT_EQ(worker.replica().parameter(0).size(), std::size_t{kElements} * 2);
      auto state = worker.optimizer().export_state();
      ASSERT_TRUE(state.ok());
      const base::Buffer& tensor = state->at(0).tensors.at("exp_avg");
      EXPECT_TRUE(base::is_phantom(tensor.view()));
      EXPECT_EQ(tensor.size(), std::size_t{kElements} * 2);
    });
    EXPECT_LT(peak() - before, 500) << "MiB";
  }
}

}  // namespace
}  // namespace gearshift::strategy
