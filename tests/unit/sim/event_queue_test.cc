#include "sim/event_queue.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace gearshift::sim::testing {
namespace {

struct Event {
  base::TimePoint until;
  int number = 0;
  bool operator==(const Event&) const = default;
};

base::TimePoint at(std::int64_t nanoseconds) { return {base::Duration(nanoseconds)}; }

TEST(EventQueue, IsEmptyAtFirst) {
  EventQueue<Event> queue;
  EXPECT_TRUE(queue.empty());
  EXPECT_EQ(queue.next(), base::TimePoint::never());
}

TEST(EventQueue, KeepsTheOrderOfEqualTimes) {
  EventQueue<Event> queue;
  for (int i = 0; i < 3; ++i) queue.push({at(1000), i});
  queue.push({at(7), 3});
  std::vector<Event> due;
  queue.pop(due);
  EXPECT_EQ(due, (std::vector<Event>{{at(7), 3}}));
  queue.push({at(1000), 4});  // after others were spread
  due.clear();
  EXPECT_EQ(queue.next(), at(1000));
  queue.pop(due);
  EXPECT_EQ(due, (std::vector<Event>{{at(1000), 0}, {at(1000), 1}, {at(1000), 2}, {at(1000), 4}}));
  EXPECT_TRUE(queue.empty());
}

TEST(EventQueue, KnowsTheNextOfABucketThatIsUsedAgain) {
  EventQueue<Event> queue;
  std::vector<Event> due;
  const auto pop = [&] {
    due.clear();
    queue.pop(due);
    return due;
  };
  queue.push({at(12), 0});
  queue.push({at(9), 1});
  EXPECT_EQ(pop(), (std::vector<Event>{{at(9), 1}}));
  EXPECT_EQ(queue.next(), at(12));
  queue.push({at(15), 2});  // into the bucket of the one that is left
  EXPECT_EQ(queue.next(), at(12));
  EXPECT_EQ(pop(), (std::vector<Event>{{at(12), 0}}));
  EXPECT_EQ(pop(), (std::vector<Event>{{at(15), 2}}));
  queue.push({at(31), 3});  // buckets that were empty forget what they held
  queue.push({at(30), 4});
  EXPECT_EQ(pop(), (std::vector<Event>{{at(30), 4}}));
  EXPECT_EQ(pop(), (std::vector<Event>{{at(31), 3}}));
  EXPECT_TRUE(queue.empty());
  EXPECT_EQ(queue.next(), base::TimePoint::never());
}

/// What comes while the clock goes on, against a list that is sorted anew for each event.
TEST(EventQueue, AgreesWithASortedList) {
  std::mt19937_64 random(7);
  EventQueue<Event> queue;
  std::vector<Event> sorted, due;
  std::int64_t now = 0;
  int number = 0;
  for (int round = 0; round < 3000; ++round) {
    const int many = static_cast<int>(random() % 4);
    for (int i = 0; i < many || queue.empty(); ++i) {
      const auto scale = std::int64_t{1} << (random() % 40);
      const Event event{at(now + 1 + static_cast<std::int64_t>(random() % 5) * scale), number++};
      queue.push(event);
      sorted.push_back(event);
    }
    std::stable_sort(sorted.begin(), sorted.end(),
                     [](const Event& a, const Event& b) { return a.until < b.until; });
    ASSERT_EQ(queue.next(), sorted.front().until);
    now = queue.next().since_origin.count();
    due.clear();
    queue.pop(due);
    const auto end = std::find_if(sorted.begin(), sorted.end(),
                                  [now](const Event& e) { return e.until > at(now); });
    ASSERT_EQ(due, std::vector<Event>(sorted.begin(), end));
    sorted.erase(sorted.begin(), end);
    ASSERT_EQ(queue.empty(), sorted.empty());
  }
}

}  // namespace
}  // namespace gearshift::sim::testing
