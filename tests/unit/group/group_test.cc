#include "gearshift/group/group.h"

#include <gtest/gtest.h>

#include "support/groups.h"

namespace gearshift::group {
namespace {

using base::ErrorCode;
using base::Rank;
using gearshift::testing::make_groups;
using gearshift::testing::run_ranks;
using gearshift::testing::Wire;
using std::chrono::seconds;

class GroupTest : public ::testing::TestWithParam<std::tuple<Wire, int>> {
 protected:
  Wire wire() const { return std::get<0>(GetParam()); }
  int size() const { return std::get<1>(GetParam()); }
  std::unique_ptr<base::Scheduler> scheduler_ = base::make_os_scheduler();
  std::vector<std::unique_ptr<Group>> groups_ =
      make_groups(*scheduler_, wire(), size(), seconds(20));
  Group& at(int rank) { return *groups_[static_cast<std::size_t>(rank)]; }
};

/// Every rank tells every other a number that names both; checks what it is told.
void exchange(Group& group) {
  const std::uint32_t sequence = group.next_sequence();
  const transport::Tag tag(group.channel(), sequence, 0);
  std::vector<int> in(static_cast<std::size_t>(group.size()), -1);
  std::vector<int> out(in.size());
  std::vector<transport::Request> requests;
  for (int r = 0; r < group.size(); ++r) {
    if (r == group.rank().value) continue;
    const auto at = static_cast<std::size_t>(r);
    out[at] = group.rank().value * 1000 + r;
    requests.push_back(group.link(Rank(r)).recv(tag, base::writable_bytes_of(in[at])));
    requests.push_back(group.link(Rank(r)).send(tag, base::bytes_of(out[at])));
  }
  for (const auto& request : requests) ASSERT_TRUE(request.wait(group.deadline()));
  for (int r = 0; r < group.size(); ++r) {
    const int expected = r == group.rank().value ? -1 : r * 1000 + group.rank().value;
    EXPECT_EQ(in[static_cast<std::size_t>(r)], expected);
  }
}

TEST_P(GroupTest, ConnectsEveryPair) {
  const transport::Traffic before = at(0).traffic();
  run_ranks(*scheduler_, size(), [this](int rank) {
    Group& group = at(rank);
    EXPECT_EQ(group.rank(), Rank(rank));
    EXPECT_EQ(group.size(), size());
    EXPECT_EQ(group.timeout(), seconds(20));
    EXPECT_EQ(group.links()[static_cast<std::size_t>(rank)], nullptr);
    for (int r = 0; r < size(); ++r) {
      if (r != rank) {
        EXPECT_EQ(group.link(Rank(r)).peer(), Rank(r));
      }
    }
    exchange(group);
    exchange(group);
  });
  const transport::Traffic traffic = at(0).traffic();
  const auto messages = static_cast<std::uint64_t>(2 * (size() - 1));
  EXPECT_EQ(traffic.messages_sent - before.messages_sent, messages);
  EXPECT_EQ(traffic.messages_received - before.messages_received, messages);
}

TEST_P(GroupTest, ChannelsDoNotMix) {
  run_ranks(*scheduler_, size(), [this](int rank) {
    Group other = at(rank).with_channel(7);
    EXPECT_EQ(other.channel(), 7);
    auto beside = scheduler_->spawn("beside", [&other] {
      for (int i = 0; i < 20; ++i) exchange(other);
    });
    for (int i = 0; i < 20; ++i) exchange(at(rank));
  });
}

TEST_P(GroupTest, SubgroupsAreRenumbered) {
  std::vector<Rank> odd;
  for (int r = 1; r < size(); r += 2) odd.emplace_back(r);
  run_ranks(*scheduler_, size(), [&](int rank) {
    if (rank % 2 == 0) return;
    Group half = at(rank).subgroup(odd, 9);
    EXPECT_EQ(half.rank(), Rank(rank / 2));
    EXPECT_EQ(half.size(), static_cast<int>(odd.size()));
    exchange(half);
  });
}

TEST_P(GroupTest, AbortFailsWhatIsPending) {
  run_ranks(*scheduler_, size(), [this](int rank) {
    Group& group = at(rank);
    int value = 0;
    const transport::Tag tag(0, 77, 0);
    const int peer = rank == 0 ? 1 : 0;
    if (size() == 1) return;
    const auto request = group.link(Rank(peer)).recv(tag, base::writable_bytes_of(value));
    if (rank == 0) group.abort({ErrorCode::kDiverged, "loss is nan", 0});
    const base::Status status = request.wait(group.deadline());
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().code, rank == 0 ? ErrorCode::kDiverged : ErrorCode::kPeerLost);
  });
}

TEST_P(GroupTest, CloseDeliversWhatWasSentAndIsNoLoss) {
  run_ranks(*scheduler_, size(), [this](int rank) {
    Group& group = at(rank);
    bool lost = false;
    group.router().on_lost([&lost](Rank, const base::Error&) { lost = true; });
    const transport::Tag tag(0, 1, 0);
    int last = 0;
    if (size() > 1 && rank == 0) {
      last = 42;
      ASSERT_TRUE(group.link(Rank(1)).send(tag, base::bytes_of(last)).wait(group.deadline()));
      group.close(group.deadline());
    } else if (rank == 1) {
      auto request = group.link(Rank(0)).recv(tag, base::writable_bytes_of(last));
      ASSERT_TRUE(request.wait(group.deadline()));
      EXPECT_EQ(last, 42);
      request = group.link(Rank(0)).recv({0, 2, 0}, base::writable_bytes_of(last));
      EXPECT_EQ(request.wait(group.deadline()).error().code, ErrorCode::kClosed);
    }
    group.close(group.deadline());
    group.router().on_lost(nullptr);
    EXPECT_FALSE(lost);
  });
}

INSTANTIATE_TEST_SUITE_P(Worlds, GroupTest,
                         ::testing::Combine(::testing::Values(Wire::kInproc, Wire::kTcp),
                                            ::testing::Values(1, 2, 3, 5, 8)),
                         [](const auto& test) {
                           return gearshift::testing::to_string(std::get<0>(test.param)) +
                                  std::to_string(std::get<1>(test.param));
                         });

TEST(Group, OutlivesWhatItWasMadeWith) {
  auto scheduler = base::make_os_scheduler();
  auto groups = std::move(make_local_groups(*scheduler, 2, seconds(20))).value();
  const Group copy = groups[0]->with_channel(3);
  const Group other = groups[1]->with_channel(3);
  groups.clear();
  run_ranks(*scheduler, 2, [&](int rank) {
    Group mine = rank == 0 ? copy : other;
    exchange(mine);
  });
}

}  // namespace
}  // namespace gearshift::group
