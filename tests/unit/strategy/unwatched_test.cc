// Workers and dedicated servers without a monitor: errors are returned where they occur.

#include <gtest/gtest.h>

#include <limits>

#include "gearshift/group/connect.h"
#include "quiet_job.h"
#include "strategy/channels.h"

namespace gearshift::strategy {
namespace {

/// One worker and one dedicated server; returns what the server said in the end.
base::Status serve(const quiet::Job& job,
                   const std::function<void(const Environment& environment)>& work) {
  const auto scheduler = base::make_os_scheduler();
  auto groups = group::make_local_groups(*scheduler, 2, std::chrono::seconds(20));
  EXPECT_TRUE(groups.ok());
  base::Status served;
  const auto server = scheduler->spawn("server", [&] {
    served = run_server({nullptr, job.workers, (*groups)[1].get(), nullptr});
  });
  group::Group workers = (*groups)[0]->subgroup({base::Rank(0)}, 1);
  work({&workers, 1, (*groups)[0].get(), nullptr});
  server->join();
  return served;
}

quiet::Job job_of_one() {
  quiet::Job job{.workers = 1, .servers = 1};
  job.strategy.kind = ParameterServer{ps::Consistency::asp()};
  job.parameters = quiet::mixed_parameters();
  return job;
}

TEST(Unwatched, AServerThatDivergesReturns) {
  const quiet::Job job = job_of_one();
  const base::Status served = serve(job, [&](const Environment& environment) {
    quiet::Worker worker(job, environment, false);
    EXPECT_TRUE(worker.replica().backward_end(std::vector<bool>(5, true)).ok());
    StepInput input;
    input.hypers = job.hypers;
    input.loss = std::numeric_limits<double>::infinity();
    environment.world->context()->timeout = std::chrono::milliseconds(300);
    const auto report = worker.replica().step(input);
    ASSERT_FALSE(report.ok());
    EXPECT_EQ(report.error().code, base::ErrorCode::kTimeout);
    EXPECT_FALSE(worker.replica().step(input).ok()) << "unusable after an error";
  });
  ASSERT_FALSE(served.ok());
  EXPECT_EQ(served.error().code, base::ErrorCode::kDiverged) << served.error().to_string();
}

TEST(Unwatched, AShardThatDivergesEndsTheStepOfItsWorker) {
  quiet::Job job{.workers = 1};
  job.strategy.kind = ParameterServer{ps::Consistency::asp()};
  job.parameters = quiet::mixed_parameters();
  const auto scheduler = base::make_os_scheduler();
  auto groups = group::make_local_groups(*scheduler, 1, std::chrono::seconds(5));
  ASSERT_TRUE(groups.ok());
  group::Group& world = *(*groups)[0];
  group::Group workers = world.subgroup({base::Rank(0)}, 1);
  quiet::Worker worker(job, {&workers, 1, &world, nullptr}, false);
  worker.step(0);
  ASSERT_TRUE(worker.replica().backward_end(std::vector<bool>(5, true)).ok());
  StepInput input;
  input.hypers = job.hypers;
  input.loss = std::numeric_limits<double>::infinity();
  const auto report = worker.replica().step(input);
  ASSERT_FALSE(report.ok());
  EXPECT_EQ(report.error().code, base::ErrorCode::kDiverged);
  EXPECT_NE(report.error().message.find("the loss is not finite (worker 0, step 2"),
            std::string::npos)
      << report.error().message;
}

TEST(Unwatched, AServerRefusesOrdersForModelsThatItHasNot) {
  const base::Status served = serve(job_of_one(), [&](const Environment& environment) {
    const std::byte order[] = {std::byte{2}, std::byte{7}, std::byte{0}};  // close model 7
    EXPECT_TRUE(environment.world->link(base::Rank(1))
                    .send(transport::Tag(kServerHostService, 0, 0), order, {})
                    .wait(environment.world->deadline())
                    .ok());
  });
  ASSERT_FALSE(served.ok());
  EXPECT_EQ(served.error().code, base::ErrorCode::kProtocol);
}

}  // namespace
}  // namespace gearshift::strategy
