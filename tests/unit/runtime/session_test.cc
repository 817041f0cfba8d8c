#include "gearshift/runtime/session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
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
void run_job_at(const std::string& rdzv, int ranks, int servers,
                const std::function<void(Session&)>& body) {
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      SessionOptions options;
      options.rank = rank;
      options.world_size = ranks;
      options.servers = servers;
      options.rdzv = rdzv;
      options.token = "secret";
      const auto session = Session::create(options);
      ASSERT_TRUE(session.ok()) << session.error().to_string();
      body(**session);
      EXPECT_TRUE((*session)->close().ok());
    });
  }
  for (std::thread& thread : threads) thread.join();
}

void run_job(int ranks, int servers, const std::function<void(Session&)>& body) {
  std::string directory = ::testing::TempDir() + "session-XXXXXX";
  ASSERT_NE(::mkdtemp(directory.data()), nullptr);
  run_job_at("file://" + directory, ranks, servers, body);
  std::filesystem::remove_all(directory);
}

/// A TCP socket at a port of 127.0.0.1, which others may have, too, unless it listens.
int bound_socket(sockaddr_in& at) {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
  socklen_t size = sizeof at;
  EXPECT_EQ(::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one), 0);
  EXPECT_EQ(::bind(fd, reinterpret_cast<const sockaddr*>(&at), size), 0);
  EXPECT_EQ(::getsockname(fd, reinterpret_cast<sockaddr*>(&at), &size), 0);
  return fd;
}

TEST(Rendezvous, IsServedOnceWhoHasThePortEnds) {
  sockaddr_in at{};
  at.sin_family = AF_INET;
  at.sin_addr.s_addr = ::htonl(INADDR_LOOPBACK);
  const int keeper = bound_socket(at);  // so that nobody else gets it
  const int former = bound_socket(at);
  ASSERT_EQ(::listen(former, 1), 0);
  std::thread end([former] {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));  // it is asked meanwhile
    ::close(former);
  });
  run_job_at("tcp://127.0.0.1:" + std::to_string(::ntohs(at.sin_port)), 2, 0,
             [](Session& session) { EXPECT_EQ(session.world_size(), 2); });
  end.join();
  ::close(keeper);
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
