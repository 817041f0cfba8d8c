// What every store promises, whatever it keeps its values in.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "gearshift/rendezvous/file/factory.h"
#include "gearshift/rendezvous/memory/factory.h"
#include "gearshift/rendezvous/tcp/factory.h"
#include "support/ranks.h"
#include "unit/rendezvous/testing.h"

namespace gearshift::rendezvous {
namespace {

using base::ErrorCode;
using std::chrono::milliseconds;
using ::testing::HasSubstr;

/// One store, and handles to it as different processes would hold them.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::shared_ptr<Store> handle() = 0;
};

class MemoryBackend final : public Backend {
 public:
  explicit MemoryBackend(base::Scheduler& scheduler) : store_(memory::make(scheduler)) {}
  std::shared_ptr<Store> handle() override { return store_; }

 private:
  std::shared_ptr<Store> store_;
};

class FileBackend final : public Backend {
 public:
  explicit FileBackend(base::Scheduler& scheduler) : scheduler_(scheduler) {}
  std::shared_ptr<Store> handle() override {
    return std::move(file::open(scheduler_, directory_.path() + "/store")).value();
  }

 private:
  base::Scheduler& scheduler_;
  gearshift::testing::TemporaryDirectory directory_;
};

class TcpBackend final : public Backend {
 public:
  explicit TcpBackend(base::Scheduler& scheduler)
      : scheduler_(scheduler),
        server_(std::move(tcp::serve(scheduler, "127.0.0.1", 0, "secret")).value()) {}
  std::shared_ptr<Store> handle() override {
    const int port = gearshift::testing::port_of(server_->address());
    return std::move(tcp::connect(scheduler_, "127.0.0.1", port, "secret",
                                  scheduler_.after(std::chrono::seconds(10))))
        .value();
  }

 private:
  base::Scheduler& scheduler_;
  std::unique_ptr<tcp::Server> server_;
};

struct Kind {
  const char* name;
  std::function<std::unique_ptr<Backend>(base::Scheduler&)> make;
};
template <typename B>
Kind kind(const char* name) {
  return {name, [](base::Scheduler& s) { return std::make_unique<B>(s); }};
}

class StoreTest : public ::testing::TestWithParam<Kind> {
 protected:
  std::unique_ptr<base::Scheduler> scheduler_ = base::make_os_scheduler();
  std::unique_ptr<Backend> backend_ = GetParam().make(*scheduler_);
  std::shared_ptr<Store> store_ = backend_->handle();

  base::TimePoint soon() const { return scheduler_->after(milliseconds(60)); }
  base::TimePoint later() const { return scheduler_->after(std::chrono::seconds(20)); }
};

TEST_P(StoreTest, KeepsWhatWasSet) {
  ASSERT_TRUE(store_->set("a", "one"));
  EXPECT_EQ(store_->get("a", later()).value(), "one");
  EXPECT_EQ(backend_->handle()->get("a", later()).value(), "one");
}

TEST_P(StoreTest, LastWriterWins) {
  ASSERT_TRUE(store_->set("a", "one"));
  ASSERT_TRUE(backend_->handle()->set("a", "two"));
  EXPECT_EQ(store_->get("a", later()).value(), "two");
}

TEST_P(StoreTest, TimeoutNamesTheKey) {
  const auto missing = store_->get("group/1/rank/7", soon());
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, ErrorCode::kTimeout);
  EXPECT_THAT(missing.error().message, HasSubstr("group/1/rank/7"));
}

TEST_P(StoreTest, APassedDeadlineStillFindsWhatIsThere) {
  ASSERT_TRUE(store_->set("a", "one"));
  const base::TimePoint passed{scheduler_->now().since_origin - milliseconds(5)};
  EXPECT_EQ(store_->get("a", passed).value(), "one");
  EXPECT_EQ(store_->get("b", passed).error().code, ErrorCode::kTimeout);
}

TEST_P(StoreTest, GetWaitsForASetThroughTheSameHandle) {
  auto setter = scheduler_->spawn("setter", [this] {
    scheduler_->sleep_for(milliseconds(50));
    EXPECT_TRUE(store_->set("late", "value"));
  });
  EXPECT_EQ(store_->get("late", later()).value(), "value");
}

TEST_P(StoreTest, AwaitsForEver) {
  auto setter = scheduler_->spawn("setter", [this] {
    scheduler_->sleep_for(milliseconds(50));
    EXPECT_TRUE(store_->set("late", "value"));
  });
  EXPECT_EQ(store_->get("late", base::TimePoint::never()).value(), "value");
}

TEST_P(StoreTest, CountsExactlyFromManyTasks) {
  gearshift::testing::run_ranks(*scheduler_, 5, [this](int rank) {
    auto mine = backend_->handle();
    for (int i = 0; i < 20; ++i) ASSERT_TRUE(mine->add("counter", rank + 1));
  });
  EXPECT_EQ(store_->add("counter", 0).value(), 20 * (1 + 2 + 3 + 4 + 5));
  EXPECT_EQ(store_->add("counter", -300).value(), 0);
  EXPECT_EQ(store_->get("counter", later()).value(), "0");
}

TEST_P(StoreTest, SumsAreDistinct) {
  std::vector<std::int64_t> sums(8);
  gearshift::testing::run_ranks(*scheduler_, 8, [&](int rank) {
    sums[static_cast<std::size_t>(rank)] = backend_->handle()->add("ticket", 1).value();
  });
  EXPECT_THAT(sums, ::testing::UnorderedElementsAre(1, 2, 3, 4, 5, 6, 7, 8));
}

TEST_P(StoreTest, RefusesToCountWithWhatIsNoCounter) {
  ASSERT_TRUE(store_->set("text", "12 monkeys"));
  EXPECT_EQ(store_->add("text", 1).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(store_->get("text", later()).value(), "12 monkeys");
  ASSERT_TRUE(store_->add("big", INT64_MAX));
  EXPECT_EQ(store_->add("big", 1).error().code, ErrorCode::kInvalidArgument);
}

TEST_P(StoreTest, TakesAnyBytesAsKeyAndValue) {
  const std::string odd("\0\xff/../%2E ~\n", 12);
  ASSERT_TRUE(store_->set(odd, odd));
  ASSERT_TRUE(store_->set("../escape", "inside"));
  ASSERT_TRUE(store_->set(".lock", "not a lock"));
  ASSERT_TRUE(store_->set("empty", ""));
  EXPECT_EQ(store_->get(odd, later()).value(), odd);
  EXPECT_EQ(store_->get("../escape", later()).value(), "inside");
  EXPECT_EQ(store_->get(".lock", later()).value(), "not a lock");
  EXPECT_EQ(store_->get("empty", later()).value(), "");
}

TEST_P(StoreTest, KeepsTheLimits) {
  const std::string long_key(1024, '/');
  std::string other_key = long_key;
  other_key.back() = 'x';
  const std::string large(1 << 20, 'v');
  ASSERT_TRUE(store_->set(long_key, large));
  ASSERT_TRUE(store_->set(other_key, "other"));
  EXPECT_TRUE(store_->get(long_key, later()).value() == large);
  EXPECT_EQ(store_->get(other_key, later()).value(), "other");
  EXPECT_EQ(store_->set(long_key + "x", "v").error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(store_->set("", "v").error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(store_->set("k", large + "v").error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(store_->get("", soon()).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(store_->add("", 1).error().code, ErrorCode::kInvalidArgument);
}

TEST_P(StoreTest, NobodyIsMissedWhoIsThere) {
  const auto other = backend_->handle();
  ASSERT_TRUE(store_->attend("1"));
  ASSERT_TRUE(other->attend("2/x"));
  const auto late = backend_->handle();
  for (const auto& from : {store_, other, late}) EXPECT_EQ(from->absentee().value(), "");
  EXPECT_EQ(store_->attend("").error().code, ErrorCode::kInvalidArgument);
}

TEST_P(StoreTest, MissesWhoIsGone) {
  if (GetParam().name == std::string("memory")) GTEST_SKIP() << "its users go together";
  ASSERT_TRUE(store_->attend("1"));
  auto other = backend_->handle();
  ASSERT_TRUE(other->attend("2/x"));
  other.reset();
  const base::TimePoint deadline = later();
  while (store_->absentee().value().empty() && scheduler_->now() < deadline) {
    scheduler_->sleep_for(milliseconds(10));
  }
  EXPECT_EQ(store_->absentee().value(), "2/x");
  EXPECT_EQ(backend_->handle()->absentee().value(), "2/x");
}

TEST_P(StoreTest, ReadersNeverSeeHalfAValue) {
  const std::string a(100'000, 'a');
  const std::string b(100'000, 'b');
  ASSERT_TRUE(store_->set("k", a));
  gearshift::testing::run_ranks(*scheduler_, 3, [&](int rank) {
    auto mine = backend_->handle();
    for (int i = 0; i < 20; ++i) {
      if (rank == 0) {
        ASSERT_TRUE(mine->set("k", i % 2 == 0 ? b : a));
      } else {
        const std::string seen = mine->get("k", later()).value();
        ASSERT_TRUE(seen == a || seen == b);
      }
    }
  });
}

INSTANTIATE_TEST_SUITE_P(AllStores, StoreTest,
                         ::testing::Values(kind<MemoryBackend>("memory"), kind<FileBackend>("file"),
                                           kind<TcpBackend>("tcp")),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace gearshift::rendezvous
