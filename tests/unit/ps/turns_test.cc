#include "ps/turns.h"

#include <gtest/gtest.h>

#include <chrono>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "cluster.h"
#include "support/ranks.h"

namespace gearshift::ps {
namespace {

using std::chrono::milliseconds;

base::TimePoint at(int ms) { return base::TimePoint() + milliseconds(ms); }

/// So many at a time.
AtOnce only(int workers) {
  AtOnce at_once(workers, 1'000);
  for (int i = 0; i < 1'000; ++i) at_once.left(std::chrono::milliseconds(1));
  EXPECT_TRUE(at_once.in_turns());
  return at_once;
}

/// Workers in the order in which they may be sent to now.
std::vector<int> next_workers(Turns& turns, int ms = 0) {
  std::vector<int> workers;
  while (const auto answer = turns.next(at(ms))) workers.push_back(answer->worker);
  return workers;
}

void add(Turns& turns, int worker, std::uint32_t request, std::size_t slices) {
  for (std::size_t i = 0; i < slices; ++i) turns.add({worker, request, i});
}

using Workers = std::vector<int>;

TEST(Turns, ServeWhoCameFirst) {
  Turns turns(3, only(1));
  add(turns, 2, 7, 3);
  add(turns, 0, 8, 1);
  EXPECT_EQ(next_workers(turns), (Workers{2, 2})) << "one on the wire, and one behind it";
  turns.left(2, at(1));
  EXPECT_EQ(next_workers(turns, 1), (Workers{2}));
  turns.left(2, at(2));
  EXPECT_EQ(next_workers(turns, 2), (Workers{0})) << "nothing is left for the first";
  EXPECT_FALSE(turns.waiting());
}

TEST(Turns, ServeSeveralAtOnce) {
  Turns turns(4, only(2));
  for (int w = 0; w < 4; ++w) add(turns, w, 1, 5);
  EXPECT_EQ(next_workers(turns), (Workers{0, 0, 1, 1}));
  EXPECT_TRUE(turns.waiting());
  turns.left(1, at(1));
  EXPECT_EQ(next_workers(turns, 1), (Workers{1}));
}

TEST(Turns, DoNotWaitForWhatIsNotThere) {
  // The first worker's slices become ready one by one; the link serves the second meanwhile.
  Turns turns(2, only(1));
  add(turns, 0, 1, 1);
  add(turns, 1, 1, 4);
  EXPECT_EQ(next_workers(turns), (Workers{0, 1}));
  turns.add({0, 1, 1});
  EXPECT_TRUE(next_workers(turns).empty());
  turns.left(1, at(1));
  EXPECT_EQ(next_workers(turns, 1), (Workers{0})) << "it is still the first one's turn";
}

TEST(Turns, BeginAnewWithTheNextRequest) {
  Turns turns(2, only(1));
  add(turns, 0, 1, 1);
  EXPECT_EQ(next_workers(turns), (Workers{0}));
  turns.left(0, at(1));
  add(turns, 1, 1, 2);
  add(turns, 0, 2, 2);
  EXPECT_EQ(next_workers(turns, 1), (Workers{1, 1}));
}

TEST(Turns, PassOverWhoTakesNothing) {
  Turns turns(2, only(1));
  add(turns, 0, 1, 4);
  add(turns, 1, 1, 4);
  EXPECT_EQ(next_workers(turns), (Workers{0, 0}));
  EXPECT_TRUE(next_workers(turns, 900).empty());
  EXPECT_EQ(next_workers(turns, 1100), (Workers{1, 1}));
  turns.left(0, at(1200));
  EXPECT_TRUE(next_workers(turns, 1200).empty()) << "three are under way";
  turns.left(1, at(1300));
  turns.left(1, at(1300));
  EXPECT_EQ(next_workers(turns, 1300), (Workers{0})) << "it is back";
}

TEST(Turns, LoseNothing) {
  std::mt19937 random(7);
  const auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  for (int round = 0; round < 200; ++round) {
    const int workers = 1 + below(6);
    Turns turns(workers, round % 3 == 0 ? AtOnce(1, 10) : only(1 + below(3)));
    std::multiset<std::pair<int, std::size_t>> added, sent;
    std::vector<int> under_way;
    std::vector<std::uint32_t> request(static_cast<std::size_t>(workers), 0);
    for (int t = 0; t < 200; ++t) {
      const int w = below(workers);
      if (below(2) == 0) {
        const auto slice = static_cast<std::size_t>(t);
        auto& number = request[static_cast<std::size_t>(w)];
        if (below(4) == 0) ++number;
        turns.add({w, number, slice});
        added.emplace(w, slice);
      } else if (!under_way.empty()) {
        const auto i = static_cast<std::size_t>(below(static_cast<int>(under_way.size())));
        turns.left(under_way[i], at(t));
        under_way.erase(under_way.begin() + static_cast<std::ptrdiff_t>(i));
      }
      while (const auto answer = turns.next(at(t))) {
        sent.emplace(answer->worker, answer->slice);
        under_way.push_back(answer->worker);
      }
      EXPECT_EQ(turns.waiting(), sent.size() < added.size());
    }
    if (round % 2 == 0) {
      while (!under_way.empty()) {
        turns.left(under_way.back(), at(1000));
        under_way.pop_back();
        while (const auto answer = turns.next(at(1000))) {
          sent.emplace(answer->worker, answer->slice);
          under_way.push_back(answer->worker);
        }
      }
    }
    while (const auto answer = turns.any()) sent.emplace(answer->worker, answer->slice);
    EXPECT_EQ(sent, added);
    EXPECT_FALSE(turns.waiting());
  }
}

TEST(Turns, NothingIsLostUnderAnyTransport) {
  // Each push takes its gradient off once, whoever is answered first: the sum is exact, for all
  // values are small integers.
  constexpr int kPushers = 4;
  constexpr int kPushes = 25;
  for (const std::string transport : {"inproc", "tcp", "shm"}) {
    for (const Consistency& consistency :
         {Consistency::asp(), Consistency::ssp(1), Consistency::buffered(2)}) {
      Cluster cluster({.workers = kPushers,
                       .servers = {4, 5},
                       .consistency = consistency,
                       .at_once = 2,
                       .transport = transport});
      testing::run_ranks(cluster.scheduler(), kPushers, [&](int w) {
        cluster.fill_gradients(w, 1 + w);
        for (int step = 1; step <= kPushes; ++step) {
          const auto reply =
              cluster.push(w, {.step = step, .samples = 1, .present = {}, .hypers = {1, 1}});
          ASSERT_TRUE(reply.ok()) << reply.error().message;
        }
      });
      const double each = consistency.kind == Consistency::Kind::kBuffered ? 0.5 : 1;
      Buckets& last = cluster.parameters(0);
      ASSERT_TRUE(cluster.client(0).pull(views(last)).ok());
      EXPECT_NEAR(value_of(cluster.model, last, 0, 0),
                  initial_value(0, 0) - each * kPushes * (1 + 2 + 3 + 4), 1e-9)
          << transport << ' ' << consistency.to_string();
    }
  }
}

}  // namespace
}  // namespace gearshift::ps
