#include "collectives/schedule.h"

#include <gtest/gtest.h>

#include <set>

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
