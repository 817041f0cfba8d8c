#include "gearshift/group/connect.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <stop_token>

#include "support/few_threads.h"
#include "support/groups.h"

namespace gearshift::group {
namespace {

using base::ErrorCode;
using base::Rank;
using gearshift::testing::Meeting;
using gearshift::testing::run_ranks;
using gearshift::testing::Wire;
using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class ConnectTest : public ::testing::TestWithParam<Wire> {
 protected:
  std::unique_ptr<base::Scheduler> scheduler_ = base::make_os_scheduler();
  Meeting meeting_{*scheduler_, GetParam()};
};

TEST_P(ConnectTest, NamesTheRanksThatDoNotAppear) {
  // Those that appear have done so before anybody looks, however late their tasks begin.
  Meeting model(*scheduler_, GetParam());
  EXPECT_FALSE(model.join(0, 5, milliseconds(1)));
  const auto words = model.store().get("group/1/rank/0", scheduler_->now());
  ASSERT_TRUE(words);
  for (const char* rank : {"0", "1", "3"}) {
    ASSERT_TRUE(meeting_.store().set(std::string("group/1/rank/") + rank, *words));
  }
  run_ranks(*scheduler_, 5, [this](int rank) {
    if (rank == 2 || rank == 4) return;
    const auto group = meeting_.join(rank, 5, milliseconds(400));
    ASSERT_FALSE(group);
    EXPECT_EQ(group.error().code, ErrorCode::kTimeout);
    EXPECT_EQ(group.error().culprit, 2);
    EXPECT_THAT(group.error().message, HasSubstr("ranks 2 and 4 of 5 did not appear"));
    EXPECT_THAT(group.error().message, HasSubstr("0.4 s"));
  });
}

TEST_P(ConnectTest, NamesTheRankThatAppearsButDoesNotConnect) {
  EXPECT_FALSE(meeting_.join(2, 3, milliseconds(1)));  // has announced itself, and gives up
  run_ranks(*scheduler_, 2, [&](int rank) {
    const auto group = meeting_.join(rank, 3, seconds(3));
    ASSERT_FALSE(group);
    EXPECT_EQ(group.error().code, ErrorCode::kTimeout);
    EXPECT_EQ(group.error().culprit, 2);
    EXPECT_THAT(group.error().message, HasSubstr("could not connect with rank 2 of 3"));
  });
}

TEST_P(ConnectTest, WhoGivesUpTellsTheOthersBecauseOfWhom) {
  EXPECT_FALSE(meeting_.join(2, 3, milliseconds(1)));
  const base::TimePoint begin = scheduler_->now();
  run_ranks(*scheduler_, 2, [&](int rank) {
    const auto group = meeting_.join(rank, 3, rank == 0 ? seconds(1) : seconds(60));
    ASSERT_FALSE(group);
    EXPECT_EQ(group.error().code, rank == 0 ? ErrorCode::kTimeout : ErrorCode::kPeerLost);
    EXPECT_EQ(group.error().culprit, 2);
    if (rank == 0) return;
    EXPECT_THAT(group.error().message,
                HasSubstr("rank 2 is lost while all connect: another rank says could not connect"));
  });
  EXPECT_LT(scheduler_->now() - begin, seconds(50));
}

/// A store to which this rank has come, and ended; which shows after some looks.
class Deserted final : public rendezvous::Store {
 public:
  Deserted(rendezvous::Store& inner, int rank, int looks)
      : inner_(inner), rank_(rank), looks_(looks) {}
  base::Status set(const std::string& key, const std::string& value) override {
    return inner_.set(key, value);
  }
  base::Result<std::string> get(const std::string& key, base::TimePoint deadline) override {
    return inner_.get(key, deadline);
  }
  base::Result<std::int64_t> add(const std::string& key, std::int64_t amount) override {
    return inner_.add(key, amount);
  }
  base::Status attend(const std::string& name) override { return inner_.attend(name); }
  base::Result<std::string> absentee() override {
    return --looks_ >= 0 ? std::string() : std::to_string(rank_);
  }
  std::string address() const override { return inner_.address(); }

 private:
  rendezvous::Store& inner_;
  const int rank_;
  std::atomic<int> looks_;
};

TEST_P(ConnectTest, MissesWhoHasEndedBeforeItConnects) {
  struct Case {
    int own, lost, size;
    bool has_announced;
    int looks = 0;
  };
  // The last: its sockets had gone when it was not missed yet.
  for (const Case& c :
       {Case{1, 2, 3, false}, Case{0, 1, 2, true}, Case{1, 0, 2, true}, Case{1, 0, 2, true, 1}}) {
    Meeting meeting(*scheduler_, GetParam());
    if (c.has_announced) {
      EXPECT_FALSE(meeting.join(c.lost, c.size, milliseconds(1)));
    }
    Deserted store(meeting.store(), c.lost, c.looks);
    auto router = std::make_shared<transport::Router>(*scheduler_);
    std::shared_ptr<transport::Transport> own = *meeting.transport(router, Rank(c.own));
    ConnectOptions options{.rank = Rank(c.own), .size = c.size, .timeout = seconds(60)};
    const base::TimePoint begin = scheduler_->now();
    const auto group = connect(*scheduler_, router, store, {own}, options);
    ASSERT_FALSE(group);
    EXPECT_EQ(group.error().code, ErrorCode::kPeerLost) << group.error().message;
    EXPECT_EQ(group.error().culprit, c.lost);
    EXPECT_LT(scheduler_->now() - begin, seconds(50));
    EXPECT_THAT(*store.get("group/1/lost", scheduler_->now()),
                StartsWith(std::to_string(c.lost) + " "));
  }
}

/// As where a host's launcher ends all of its ranks when one of them has died.
TEST_P(ConnectTest, MissesAnotherThanTheOneThatRefuses) {
  for (const int rank : {0, 2}) EXPECT_FALSE(meeting_.join(rank, 3, milliseconds(1)));
  Deserted store(meeting_.store(), 2, 0);
  auto router = std::make_shared<transport::Router>(*scheduler_);
  std::shared_ptr<transport::Transport> own = *meeting_.transport(router, Rank(1));
  const ConnectOptions options{.rank = Rank(1), .size = 3, .timeout = seconds(60)};
  const auto group = connect(*scheduler_, router, store, {own}, options);
  ASSERT_FALSE(group);
  EXPECT_EQ(group.error().code, ErrorCode::kPeerLost) << group.error().message;
  EXPECT_EQ(group.error().culprit, 2);
}

TEST_P(ConnectTest, NoticesAnotherWorldSize) {
  run_ranks(*scheduler_, 2, [this](int rank) {
    const auto group = meeting_.join(rank, rank + 2, seconds(20));
    ASSERT_FALSE(group);
    EXPECT_EQ(group.error().code, ErrorCode::kMismatch);
    EXPECT_THAT(group.error().message, HasSubstr("world size"));
  });
}

TEST_P(ConnectTest, NoticesTwoProcessesWithOneRank) {
  run_ranks(*scheduler_, 3, [this](int task) {
    const int rank = task == 2 ? 1 : task;
    if (task == 2) {  // the last to come
      ASSERT_TRUE(meeting_.store().get("group/1/rank/1", scheduler_->after(seconds(10))));
    }
    const auto group = meeting_.join(rank, 2, seconds(10));
    EXPECT_EQ(group.ok(), task != 2);
    if (group) return;
    EXPECT_EQ(group.error().code, ErrorCode::kMismatch);
    EXPECT_EQ(group.error().culprit, 1);
  });
}

TEST_P(ConnectTest, RefusesImpossibleRanks) {
  EXPECT_EQ(meeting_.join(2, 2, seconds(1)).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(meeting_.join(-1, 2, seconds(1)).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(meeting_.join(0, 0, seconds(1)).error().code, ErrorCode::kInvalidArgument);
}

TEST_P(ConnectTest, SaysWhatIsOfferedWhenNothingReaches) {
  Meeting other(*scheduler_, GetParam() == Wire::kTcp ? Wire::kInproc : Wire::kTcp);
  run_ranks(*scheduler_, 2, [&](int rank) {
    auto router = std::make_shared<transport::Router>(*scheduler_);
    std::shared_ptr<transport::Transport> transport =
        std::move((rank == 0 ? meeting_ : other).transport(router, Rank(rank))).value();
    ConnectOptions options;
    options.rank = Rank(rank);
    options.size = 2;
    options.timeout = seconds(10);
    const auto group =
        connect(*scheduler_, router, meeting_.store(), {std::move(transport)}, options);
    ASSERT_FALSE(group);
    EXPECT_EQ(group.error().code, ErrorCode::kUnsupported);
    EXPECT_THAT(group.error().message, HasSubstr("tcp"));
    EXPECT_THAT(group.error().message, HasSubstr("inproc"));
  });
}

TEST_P(ConnectTest, DoesWithOneThreadToSpare) {
  run_ranks(*scheduler_, 4, [this](int rank) {
    gearshift::testing::FewThreads few;
    few.spare = 1;
    auto router = std::make_shared<transport::Router>(*scheduler_);
    auto transport = std::move(meeting_.transport(router, Rank(rank))).value();
    ConnectOptions options;
    options.rank = Rank(rank);
    options.size = 4;
    options.timeout = seconds(10);
    const auto group = connect(few, router, meeting_.store(), {std::move(transport)}, options);
    ASSERT_TRUE(group) << group.error().message;
    (*group)->close((*group)->deadline());
  });
}

TEST_P(ConnectTest, DoesWithoutAThreadForAMoment) {
  run_ranks(*scheduler_, 2, [this](int rank) {
    gearshift::testing::FewThreads few;
    few.refusals = 3;
    auto router = std::make_shared<transport::Router>(*scheduler_);
    auto transport = std::move(meeting_.transport(router, Rank(rank))).value();
    ConnectOptions options{.rank = Rank(rank), .size = 2, .timeout = seconds(10)};
    const auto group = connect(few, router, meeting_.store(), {std::move(transport)}, options);
    ASSERT_TRUE(group) << group.error().message;
    (*group)->close((*group)->deadline());
  });
}

/// Goes on so many times.
std::function<base::Status()> goes_on(int times) {
  return [left = std::make_shared<std::atomic<int>>(times)]() -> base::Status {
    if ((*left)-- > 0) return {};
    return base::Error(ErrorCode::kAborted, "its user wants it");
  };
}

TEST_P(ConnectTest, EndsWhereTheCallerWantsItAndTellsTheOthers) {
  EXPECT_FALSE(meeting_.join(2, 3, milliseconds(1)));  // announced, and never connects
  run_ranks(*scheduler_, 2, [&](int rank) {
    auto router = std::make_shared<transport::Router>(*scheduler_);
    std::shared_ptr<transport::Transport> own = *meeting_.transport(router, Rank(rank));
    ConnectOptions options{.rank = Rank(rank), .size = 3, .timeout = seconds(60)};
    if (rank == 0) options.go_on = goes_on(2);
    const auto group = connect(*scheduler_, router, meeting_.store(), {own}, options);
    ASSERT_FALSE(group);
    EXPECT_EQ(group.error().code, rank == 0 ? ErrorCode::kAborted : ErrorCode::kPeerLost);
    EXPECT_THAT(group.error().message,
                HasSubstr(rank == 0 ? "its user wants it"
                                    : "rank 0 is lost while all connect: its user wants it"));
    EXPECT_EQ(group.error().culprit, rank == 0 ? -1 : 0);
  });
}

TEST_P(ConnectTest, EndsWhereTheCallerWantsItWhileARankDoesNotAppear) {
  auto router = std::make_shared<transport::Router>(*scheduler_);
  std::shared_ptr<transport::Transport> own = *meeting_.transport(router, Rank(1));
  ConnectOptions options{.rank = Rank(1), .size = 2, .timeout = seconds(60)};
  options.go_on = goes_on(1);
  const auto group = connect(*scheduler_, router, meeting_.store(), {own}, options);
  ASSERT_FALSE(group);
  EXPECT_EQ(group.error().code, ErrorCode::kAborted);
  EXPECT_THAT(*meeting_.store().get("group/1/lost", scheduler_->now()), StartsWith("1 its user"));
}

/// Nobody answers at the other end, as where the peer stands still.
class Unanswered final : public transport::Transport {
 public:
  Unanswered(base::Scheduler& scheduler, std::shared_ptr<transport::Transport> inner)
      : scheduler_(scheduler), inner_(std::move(inner)) {}
  std::string name() const override { return inner_->name(); }
  std::string address() const override { return inner_->address(); }
  bool reaches(const std::string& address) const override { return inner_->reaches(address); }
  int preference() const override { return inner_->preference(); }
  base::Result<std::unique_ptr<transport::Connection>> connect(
      Rank peer, const std::string&, base::TimePoint deadline,
      const std::stop_token& stop) override {
    while (!stop.stop_requested() && scheduler_.now() < deadline) {
      scheduler_.sleep_for(milliseconds(5));
    }
    const bool stopped = stop.stop_requested();
    return base::Error(stopped ? ErrorCode::kAborted : ErrorCode::kTimeout, "no answer",
                       peer.value);
  }
  base::Result<std::unique_ptr<transport::Connection>> accept(Rank peer,
                                                              base::TimePoint deadline) override {
    return inner_->accept(peer, deadline);
  }

 private:
  base::Scheduler& scheduler_;
  const std::shared_ptr<transport::Transport> inner_;
};

TEST_P(ConnectTest, EndsWhileItConnectsToOneThatStandsStill) {
  EXPECT_FALSE(meeting_.join(0, 2, milliseconds(1)));
  auto router = std::make_shared<transport::Router>(*scheduler_);
  const auto own = std::make_shared<Unanswered>(*scheduler_, *meeting_.transport(router, Rank(1)));
  ConnectOptions options{.rank = Rank(1), .size = 2, .timeout = seconds(60)};
  options.go_on = goes_on(2);
  const auto group = connect(*scheduler_, router, meeting_.store(), {own}, options);
  ASSERT_FALSE(group);
  EXPECT_EQ(group.error().code, ErrorCode::kAborted);
  EXPECT_THAT(group.error().message, HasSubstr("its user wants it"));
}

/// It has nobody to accept, so nobody looks for it but who called.
TEST_P(ConnectTest, LearnsWhileItConnectsThatAnotherHasGivenUp) {
  EXPECT_FALSE(meeting_.join(0, 2, milliseconds(1)));
  auto router = std::make_shared<transport::Router>(*scheduler_);
  const auto own = std::make_shared<Unanswered>(*scheduler_, *meeting_.transport(router, Rank(1)));
  ASSERT_TRUE(meeting_.store().set("group/1/lost", "0 its user wants it"));
  ConnectOptions options{.rank = Rank(1), .size = 2, .timeout = seconds(60)};
  const auto group = connect(*scheduler_, router, meeting_.store(), {own}, options);
  ASSERT_FALSE(group);
  EXPECT_EQ(group.error().code, ErrorCode::kPeerLost);
  EXPECT_EQ(group.error().culprit, 0);
}

TEST_P(ConnectTest, TakesTheMostPreferredTransport) {
  Meeting other(*scheduler_, GetParam() == Wire::kTcp ? Wire::kInproc : Wire::kTcp);
  run_ranks(*scheduler_, 3, [&](int rank) {
    auto router = std::make_shared<transport::Router>(*scheduler_);
    std::vector<std::shared_ptr<transport::Transport>> transports;
    transports.push_back(std::move(meeting_.transport(router, Rank(rank))).value());
    transports.push_back(std::move(other.transport(router, Rank(rank))).value());
    ConnectOptions options;
    options.rank = Rank(rank);
    options.size = 3;
    options.timeout = seconds(10);
    const auto group = connect(*scheduler_, router, meeting_.store(), transports, options);
    ASSERT_TRUE(group) << group.error().message;
    for (const auto& link : (*group)->links()) {
      if (link) {
        EXPECT_EQ(link->capabilities().transport, "inproc");
      }
    }
    (*group)->close((*group)->deadline());
  });
}

INSTANTIATE_TEST_SUITE_P(Wires, ConnectTest, ::testing::Values(Wire::kInproc, Wire::kTcp),
                         [](const auto& test) {
                           return gearshift::testing::to_string(test.param);
                         });

}  // namespace
}  // namespace gearshift::group
