#include "strategy/channels.h"

#include <gtest/gtest.h>

#include <set>

#include "gearshift/collectives/collectives.h"
#include "toy.h"

namespace gearshift::strategy {
namespace {

TEST(Channels, OfModelsAreApartFromEachOtherAndFromThePrograms) {
  std::set<std::uint16_t> all;
  std::size_t count = 0;
  for (std::uint16_t m = 0; m < kMaxModels; ++m) {
    for (const std::uint16_t channel : {reducer_channel(m), control_channel(m), server_channel(m),
                                        shards_channel(m), lane_channel(m, 1), round_channel(m)}) {
      EXPECT_GT(channel, group::kLastUserChannel);
      EXPECT_LT(channel, transport::kFirstService);
      all.insert(channel);
      ++count;
    }
  }
  EXPECT_EQ(all.size(), count);
}

TEST(Channels, OfAProgramStayApartFromATraining) {
  for (const bool by_server : {false, true}) {
    Strategy strategy;
    strategy.kind = AllReduce{collectives::Algorithm::kRing};
    if (by_server) strategy.kind = ParameterServer{};
    toy::run_ranks(3, 0, [&](int rank, Environment environment) {
      group::Group first = environment.workers->with_channel(group::kFirstUserChannel);
      group::Group last = environment.workers->with_channel(group::kLastUserChannel);
      const auto sums = [&](group::Group& group) {
        for (int i = 0; i < 100; ++i) {
          double value = i + rank;
          const base::Status status = collectives::all_reduce(
              group, base::writable_bytes_of(value), base::DType::kF64, base::ReduceOp::kSum,
              {.algorithm = collectives::Algorithm::kRing});
          ASSERT_TRUE(status.ok()) << status.error().to_string();
          ASSERT_EQ(value, 3 * i + 3);
        }
      };
      auto& scheduler = environment.world->scheduler();
      const auto beside = scheduler.spawn("first", [&] { sums(first); });
      const auto more = scheduler.spawn("last", [&] { sums(last); });
      toy::Worker worker(environment, strategy);
      for (int k = 0; k < 20; ++k) worker.step(6 * k + 2 * rank, 2);
      worker.expect_equals(toy::train_alone(20, [](int) { return 6; }));
      beside->join();
      more->join();
      worker.ok(worker.replica->stop());
    });
  }
}

}  // namespace
}  // namespace gearshift::strategy
