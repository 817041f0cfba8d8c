#include "collectives/schedule.h"

#include <gtest/gtest.h>

#include <set>
#include <span>
#include <utility>
#include <vector>

#include "gearshift/group/connect.h"
#include "world.h"

namespace gearshift::collectives::testing {
namespace {

/// More messages than one sequence number has parts: the operation takes the next numbers, too.
TEST(Schedule, NumbersMoreThan65536Messages) {
  World world(inproc_wire(), 2);
  constexpr std::size_t kSteps = 140'000;
  const std::uint64_t before = world.at(0).traffic().messages_sent;
  world.run([&](group::Group& group) {
    Operation operation(group, "test", "many steps", {});
    const int peer = 1 - operation.rank();
    std::uint32_t sent = 0;
    std::uint32_t received = 0;
    const Step step{.to = peer,
                    .send = base::bytes_of(sent),
                    .from = peer,
                    .into = base::writable_bytes_of(received)};
    const Schedule schedule{.steps = std::vector<Step>(kSteps, step)};
    EXPECT_TRUE(run(operation, schedule).ok());
    EXPECT_EQ(group.next_sequence(), 3u);
  });
  EXPECT_EQ(world.at(0).traffic().messages_sent - before, kSteps);
}

/// Two ranks swap arrays: in seven segments, behind a fence in two, behind another one in one.
TEST(Schedule, StepsMayHaveTheirOwnSegments) {
  constexpr std::size_t kElements = 1001;
  constexpr std::size_t kSegments[] = {7, 2, 1, 9};
  World world(inproc_wire(), 2);
  const std::uint64_t before = world.at(0).traffic().messages_sent;
  world.run([&](group::Group& group) {
    Operation operation(group, "test", "segments", {});
    const int peer = 1 - operation.rank();
    std::vector<float> own(kElements, static_cast<float>(1 + operation.rank()));
    std::vector<float> other(kElements);
    const auto bytes = [](std::vector<float>& v) { return std::as_writable_bytes(std::span(v)); };
    Schedule schedule{.unit = sizeof(float), .dtype = base::DType::kF32};
    // Each step sends what the one before received, and adds what it receives.
    for (const std::size_t segments : kSegments) {
      schedule.steps.push_back({.to = peer,
                                .send = bytes(own),
                                .from = peer,
                                .into = bytes(other),
                                .combine = Combine::kReceivedFirst,
                                .own = bytes(other),
                                .segments = segments,
                                .fence = true});
      std::swap(own, other);
    }
    EXPECT_EQ(schedule.items(), 19u);
    // Views follow the memory, which has been swapped an even number of times.
    EXPECT_TRUE(run(operation, schedule).ok());
    // (a, 0) → other += the peer's own, and so on: two Fibonacci sequences that meet.
    std::vector<float> expected = {static_cast<float>(1 + operation.rank()), 0};
    std::vector<float> peers = {static_cast<float>(1 + peer), 0};
    for (std::size_t k = 0; k < std::size(kSegments); ++k) {
      const std::size_t sent = k % 2;
      const float mine = expected[1 - sent] + peers[sent];
      const float theirs = peers[1 - sent] + expected[sent];
      expected[1 - sent] = mine;
      peers[1 - sent] = theirs;
    }
    EXPECT_EQ(own, std::vector<float>(kElements, expected[0]));
    EXPECT_EQ(other, std::vector<float>(kElements, expected[1]));
  });
  EXPECT_EQ(world.at(0).traffic().messages_sent - before, 19u);
}

TEST(Schedule, TagsOfOneOperationAreDistinct) {
  World world(inproc_wire(), 1);
  const Operation operation(world.at(0), "test", "tags", {});
  std::set<transport::Tag> tags;
  for (std::size_t i = 0; i < 200'000; ++i) tags.insert(operation.tag(i));
  EXPECT_EQ(tags.size(), 200'000u);
  const Operation message = Operation::point_to_point(world.at(0), "send", {}, 0);
  EXPECT_FALSE(tags.contains(message.tag(0)));
}

}  // namespace
}  // namespace gearshift::collectives::testing
