// Tasks on the virtual clock, under both rules of sharing: as fibers and as SimGrid's actors.

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "clusters.h"
#include "in_child.h"
#include "sim/job.h"

namespace gearshift::sim::testing {
namespace {

using base::TimePoint;
using std::chrono::microseconds;
using std::chrono::milliseconds;

/// Runs `body` as a task of a simulation, in this process.
base::Status simulated(Sharing sharing, const std::function<void(base::Scheduler&)>& body) {
  const Cluster cluster = ideal_cluster(2);
  auto job =
      Job::create(cluster, std::chrono::hours(1), 256 * 1024, std::chrono::seconds(30), sharing);
  EXPECT_TRUE(job.ok());
  return (*job)->run([&](int rank, const strategy::Environment&) {
    if (rank == 0) body((*job)->scheduler());
    return base::Status();
  });
}

class SchedulerUnder : public ::testing::TestWithParam<Sharing> {
 protected:
  static void in_task(const std::function<void(base::Scheduler&)>& body) {
    in_child([&] {
      const base::Status status = simulated(GetParam(), body);
      EXPECT_TRUE(status.ok()) << status.error().to_string();
    });
  }
};

TEST_P(SchedulerUnder, SleepsInVirtualTime) {
  in_task([](base::Scheduler& clock) {
    const TimePoint begin = clock.now();
    std::string order;
    const auto sleeper = [&](const char* name, int ms) {
      return clock.spawn(name, [&clock, &order, name, ms] {
        clock.sleep_for(milliseconds(ms));
        order += name;
      });
    };
    const auto c = sleeper("c", 3), a = sleeper("a", 1), b = sleeper("b", 2);
    for (const auto* task : {&a, &b, &c}) (*task)->join();
    EXPECT_EQ(order, "abc");
    EXPECT_EQ(clock.now() - begin, milliseconds(3));
  });
}

TEST_P(SchedulerUnder, WaitsUntilTheDeadlineAndNoLonger) {
  in_task([](base::Scheduler& clock) {
    const auto monitor = clock.make_monitor();
    std::lock_guard<base::Monitor> lock(*monitor);
    EXPECT_FALSE(monitor->wait_until(clock.now()));
    const TimePoint deadline = clock.after(milliseconds(5));
    while (monitor->wait_until(deadline)) {
    }
    EXPECT_EQ(clock.now(), deadline);
    // A later one, and an earlier one while the later is still set.
    const TimePoint late = clock.after(milliseconds(50)), soon = clock.after(milliseconds(1));
    const auto waker = clock.spawn("waker", [&] {
      std::lock_guard<base::Monitor> held(*monitor);
      monitor->notify_all();
    });
    EXPECT_TRUE(monitor->wait_until(late));
    EXPECT_EQ(clock.now(), deadline);
    EXPECT_FALSE(monitor->wait_until(soon));
    EXPECT_EQ(clock.now(), soon);
  });
}

TEST_P(SchedulerUnder, WhoIsNotifiedAtTheDeadlineGoesOnOnce) {
  in_task([](base::Scheduler& clock) {
    const auto monitor = clock.make_monitor();
    const TimePoint deadline = clock.after(milliseconds(5));
    const auto waker = clock.spawn("waker", [&] {
      clock.sleep_until(deadline);
      std::lock_guard<base::Monitor> lock(*monitor);
      monitor->notify_all();
    });
    {
      std::lock_guard<base::Monitor> lock(*monitor);
      static_cast<void>(monitor->wait_until(deadline));
      EXPECT_EQ(clock.now(), deadline);
    }
    clock.sleep_for(milliseconds(5));  // nothing that is left over ends it early
    EXPECT_EQ(clock.now(), deadline + milliseconds(5));
  });
}

TEST_P(SchedulerUnder, WhatATaskHoldsIsGoneWhenItIsJoined) {
  in_task([](base::Scheduler& clock) {
    auto held = std::make_shared<int>(1);
    const std::weak_ptr<int> seen = held;
    const auto task = clock.spawn(
        "holder", [&clock, held = std::move(held)] { clock.sleep_for(milliseconds(1)); });
    EXPECT_FALSE(seen.expired());
    task->join();
    EXPECT_TRUE(seen.expired());
    task->join();
  });
}

TEST_P(SchedulerUnder, SeveralWaitForTheSameTask) {
  in_task([](base::Scheduler& clock) {
    const TimePoint end = clock.after(milliseconds(2));
    const auto slow = clock.spawn("slow", [&] { clock.sleep_until(end); });
    const auto waiter = [&] {
      slow->join();
      EXPECT_EQ(clock.now(), end);
    };
    const auto one = clock.spawn("one", waiter), two = clock.spawn("two", waiter);
    waiter();
  });
}

TEST_P(SchedulerUnder, TasksBeginAndEndByTheThousand) {
  in_task([](base::Scheduler& clock) {
    int done = 0;
    for (int round = 0; round < 4; ++round) {
      std::vector<std::unique_ptr<base::Task>> tasks;
      for (int i = 0; i < 500; ++i) {
        tasks.push_back(clock.spawn("brief", [&clock, &done, i] {
          if (i % 2 == 0) clock.sleep_for(microseconds(i));
          ++done;
        }));
      }
    }
    EXPECT_EQ(done, 2000);
  });
}

/// Whether what waits for ever is said to, and taken down without waiting for it.
TEST_P(SchedulerUnder, TasksThatWaitForEachOtherEndTheSimulation) {
  in_child([] {
    const base::Status status = simulated(GetParam(), [](base::Scheduler& clock) {
      const auto monitor = clock.make_monitor();
      const auto other = clock.spawn("other", [&] {
        std::lock_guard<base::Monitor> lock(*monitor);
        while (true) monitor->wait_until(TimePoint::never());
      });
      clock.sleep_for(milliseconds(1));
      other->join();
    });
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().code, base::ErrorCode::kAborted);
  });
}

INSTANTIATE_TEST_SUITE_P(Rules, SchedulerUnder,
                         ::testing::Values(Sharing::kMaxMin, Sharing::kPerLink), [](const auto& p) {
                           return p.param == Sharing::kMaxMin ? "MaxMin" : "PerLink";
                         });

/// Tasks that sleep, wait, notify, spawn and join at random, often at the same time. Sleeps end at
/// whole microseconds, deadlines of each task so many nanoseconds later as its number says: never
/// at the time of another alarm.
class Bustle {
 public:
  explicit Bustle(base::Scheduler& clock) : clock_(clock), monitor_(clock.make_monitor()) {}

  void run(int task, int depth) {
    std::mt19937 random(static_cast<unsigned>(task));
    for (int i = 0; i < 60; ++i) {
      const TimePoint later = whole(clock_.now()) + microseconds(random() % 4);
      switch (random() % (depth > 0 ? 4 : 3)) {
        case 0:
          clock_.sleep_until(later);
          break;
        case 1: {
          std::lock_guard<base::Monitor> lock(*monitor_);
          monitor_->wait_until(later + base::Duration(task));
          break;
        }
        case 2: {
          std::lock_guard<base::Monitor> lock(*monitor_);
          monitor_->notify_all();
          break;
        }
        default:
          clock_.spawn("child", [this, next = 10 * task + 1] { run(next, 0); })->join();
      }
      note(task);
    }
  }
  const std::string& story() const { return story_; }

 private:
  static TimePoint whole(TimePoint time) {
    return {std::chrono::ceil<microseconds>(time.since_origin)};
  }
  void note(int task) {
    story_ += std::to_string(task) + "@" + std::to_string(clock_.now().since_origin.count()) + "\n";
  }

  base::Scheduler& clock_;
  const std::unique_ptr<base::Monitor> monitor_;
  std::string story_;
};

std::string story_under(Sharing sharing) {
  const std::string file = ::testing::TempDir() + "gearshift-bustle-" + std::to_string(getpid());
  in_child([&] {
    const base::Status status = simulated(sharing, [&](base::Scheduler& clock) {
      Bustle bustle(clock);
      std::vector<std::unique_ptr<base::Task>> tasks;
      for (int t = 1; t <= 8; ++t) {
        tasks.push_back(clock.spawn("busy", [&bustle, t] { bustle.run(t, 1); }));
      }
      for (const auto& task : tasks) task->join();
      std::FILE* out = std::fopen(file.c_str(), "w");
      std::fputs(bustle.story().c_str(), out);
      std::fclose(out);
    });
    EXPECT_TRUE(status.ok());
  });
  std::string story;
  std::FILE* in = std::fopen(file.c_str(), "r");
  EXPECT_NE(in, nullptr);
  for (int c = 0; in != nullptr && (c = std::fgetc(in)) != EOF;) story += static_cast<char>(c);
  if (in != nullptr) std::fclose(in);
  std::remove(file.c_str());
  return story;
}

TEST(Scheduler, RunsTasksInTheSameOrderUnderBothRules) {
  const std::string story = story_under(Sharing::kPerLink);
  EXPECT_GT(story.size(), 5000U);
  // Not EXPECT_EQ, which would print them.
  EXPECT_TRUE(story == story_under(Sharing::kMaxMin));
  EXPECT_TRUE(story == story_under(Sharing::kPerLink));
}

}  // namespace
}  // namespace gearshift::sim::testing
