#include "gearshift/runtime/session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gearshift/strategy/local_optimizer.h"

namespace gearshift::runtime {
namespace {

using ::testing::HasSubstr;

/// Distributes models in a world of one.
class Models : public ::testing::Test {
 protected:
  void SetUp() override {
    auto session = Session::create({});
    ASSERT_TRUE(session.ok()) << session.error().to_string();
    session_ = std::move(*session);
  }

  base::Result<std::unique_ptr<strategy::Replica>> distribute(strategy::Strategy strategy) {
    strategy::ReplicaOptions options;
    options.parameters = parameters_;
    options.strategy = std::move(strategy);
    options.optimizer = optimizer_;
    options.bridge = bridge_.get();
    return session_->distribute(std::move(options));
  }

  const std::vector<strategy::ParameterSpec> parameters_{{"w", {5}, base::DType::kF32, 0}};
  const ps::OptimizerSpec optimizer_{"sgd", {"lr"}, 1};
  const std::unique_ptr<strategy::LocalOptimizer> bridge_ =
      std::move(*strategy::LocalOptimizer::create(parameters_, optimizer_));
  std::unique_ptr<Session> session_;
};

TEST_F(Models, MayBeManyOneAfterTheOther) {
  strategy::Strategy server;
  server.kind = strategy::ParameterServer{ps::Consistency::asp()};
  auto first = distribute({});  // keeps its number
  ASSERT_TRUE(first.ok());
  ASSERT_TRUE((*first)->start().ok());
  for (int k = 0; k < 2 * strategy::kMaxModels; ++k) {
    auto replica = distribute(k % 2 == 0 ? server : strategy::Strategy{});
    ASSERT_TRUE(replica.ok()) << k << ": " << replica.error().to_string();
    ASSERT_TRUE((*replica)->start().ok());
    for (strategy::Replica* one : {replica->get(), first->get()}) {
      ASSERT_TRUE(one->backward_end({true}).ok());
      strategy::StepInput input;
      input.hypers = {0.1};
      ASSERT_TRUE(one->step(input).ok()) << k;
    }
    ASSERT_TRUE((*replica)->stop().ok());
    ASSERT_TRUE((*replica)->stop().ok()) << "twice is once";
  }
  EXPECT_EQ((*first)->stats().step, 2 * strategy::kMaxModels);
}

TEST_F(Models, AreLimitedAtATime) {
  std::vector<std::unique_ptr<strategy::Replica>> replicas;
  for (int k = 0; k < strategy::kMaxModels; ++k) {
    auto replica = distribute({});
    ASSERT_TRUE(replica.ok()) << k << ": " << replica.error().to_string();
    replicas.push_back(std::move(*replica));
  }
  const auto more = distribute({});
  ASSERT_FALSE(more.ok());
  EXPECT_EQ(more.error().code, base::ErrorCode::kInvalidArgument);
  EXPECT_THAT(more.error().message, HasSubstr("at most 128 distributed models at a time"));
  ASSERT_TRUE(replicas[77]->stop().ok());
  EXPECT_TRUE(distribute({}).ok());
  EXPECT_FALSE(distribute({}).ok());
}

/// Sessions of a job's ranks, as threads of this process.
void run_job(int ranks, int servers, const std::function<void(Session&)>& body) {
  std::string directory = ::testing::TempDir() + "session-XXXXXX";
  ASSERT_NE(::mkdtemp(directory.data()), nullptr);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      SessionOptions options;
      options.rank = rank;
      options.world_size = ranks;
      options.servers = servers;
      options.rdzv = "file://" + directory;
      options.token = "secret";
      const auto session = Session::create(options);
      ASSERT_TRUE(session.ok()) << session.error().to_string();
      body(**session);
      EXPECT_TRUE((*session)->close().ok());
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::filesystem::remove_all(directory);
}

TEST(Serving, IsOnce) {
  run_job(2, 1, [](Session& session) {
    if (!session.is_server()) return;
    const auto closed = [&] {
      const base::Status again = session.serve();
      ASSERT_FALSE(again.ok());
      EXPECT_EQ(again.error().code, base::ErrorCode::kClosed);
    };
    EXPECT_TRUE(session.serve().ok());
    closed();
    EXPECT_TRUE(session.close().ok());
    closed();
  });
}

}  // namespace
}  // namespace gearshift::runtime
