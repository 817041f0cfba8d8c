#include <gtest/gtest.h>

#include <array>
#include <utility>

#include "gearshift/transport/shared_region.h"
#include "ps/lent_memory.h"
#include "ps/outbox.h"

namespace gearshift::ps {
namespace {

/// A link whose sends stay queued until the test lets them go.
class SlowLink final : public transport::Connection {
 public:
  struct Queued final : transport::RequestState {
    explicit Queued(base::ConstBytes b) : body(b) {}
    base::Status wait(base::TimePoint) override {
      left = true;
      return {};
    }
    bool done() const override { return left; }
    base::ConstBytes body;
    bool left = false;
  };

  using Connection::send;
  transport::Request send(transport::Tag, base::ConstBytes, base::ConstBytes body) override {
    queued.push_back(std::make_shared<Queued>(body));
    return transport::Request(queued.back());
  }
  transport::Request recv(transport::Tag, base::Bytes) override { return {}; }
  base::Rank peer() const override { return base::Rank(1); }
  transport::Capabilities capabilities() const override { return {}; }
  transport::Traffic traffic() const override { return {}; }
  void abort(base::Error) override {}
  void close(base::TimePoint) override {}

  std::vector<std::shared_ptr<Queued>> queued;
};

int value(base::ConstBytes bytes) {
  int v = 0;
  std::memcpy(&v, bytes.data(), sizeof(v));
  return v;
}
void put(base::Bytes bytes, int v) { std::memcpy(bytes.data(), &v, sizeof(v)); }

TEST(ParameterStore, ChangesInPlaceWhenNothingIsQueued) {
  const std::array<int, 4> initial{7, 7, 7, 7};
  ParameterStore store({base::bytes_of(initial)});
  const std::byte* memory = store.view(0).data();
  EXPECT_EQ(store.writable(0).data(), memory);
  EXPECT_EQ(value(store.view(0)), 7);
}

TEST(ParameterStore, QueuedSendsKeepTheirVersion) {
  const std::array<int, 4> initial{0, 0, 0, 0};
  ParameterStore store({base::bytes_of(initial)});
  Outbox outbox;
  SlowLink link;
  for (int version = 1; version <= 3; ++version) {
    const int before = value(store.view(0));
    const base::Bytes memory = store.writable(0);
    EXPECT_EQ(value(memory), before) << "the rest of a slice must survive the copy";
    put(memory, version);
    outbox.send(link, {}, store.snapshot(0));
    outbox.reap();
  }
  ASSERT_EQ(link.queued.size(), 3U);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(value(link.queued[static_cast<std::size_t>(i)]->body), i + 1);
  }
  // Once the send before the last is over, its memory is used again.
  const std::byte* second = link.queued[1]->body.data();
  link.queued[1]->left = true;
  outbox.reap();
  EXPECT_EQ(store.writable(0).data(), second);
  EXPECT_EQ(value(store.view(0)), 3);
  outbox.drain(base::TimePoint::never());
  const std::byte* current = store.view(0).data();
  EXPECT_EQ(store.overwritable(0).data(), current);
}

/// Each slice's sends are let go by themselves, which costs nothing of the others.
TEST(Outbox, LetsGoOfOneSlice) {
  const std::array<int, 4> initial{1, 2, 3, 4};
  ParameterStore store({base::bytes_of(initial), base::bytes_of(initial)});
  Outbox outbox(2);
  SlowLink link;
  for (const std::size_t slice : {0, 1}) {
    outbox.send_slice(link, {}, slice, store.snapshot(slice));
    link.queued[slice]->left = true;
  }
  outbox.send(link, {}, store.snapshot(1));
  EXPECT_TRUE(store.is_lent(0));
  outbox.reap(0);
  EXPECT_FALSE(store.is_lent(0));
  EXPECT_EQ(store.snapshot(1).use_count(), 3);
  outbox.reap(1);
  EXPECT_EQ(store.snapshot(1).use_count(), 2) << "the one that is no slice's waits still";
  link.queued[2]->left = true;
  outbox.reap();
  EXPECT_FALSE(store.is_lent(1));
  outbox.send_slice(link, {}, 1, store.snapshot(1));
  outbox.drain(base::TimePoint::never());
  EXPECT_FALSE(store.is_lent(1));
}

TEST(ParameterStore, PhantomsStayPhantoms) {
  ParameterStore store({base::ConstBytes(static_cast<const std::byte*>(nullptr), 64)});
  Outbox outbox;
  SlowLink link;
  outbox.send(link, {}, store.snapshot(0));
  EXPECT_TRUE(base::is_phantom(store.writable(0)));
  EXPECT_EQ(store.view(0).size(), 64U);
}

/// A link that can lend, and counts the regions that it lends.
class LendingLink final : public transport::Connection {
 public:
  class Loan final : public transport::LentRegion {
   public:
    explicit Loan(int& count) : count_(count) { ++count_; }
    ~Loan() override { --count_; }

   private:
    int& count_;
  };

  using Connection::send;
  transport::Request send(transport::Tag, base::ConstBytes, base::ConstBytes) override {
    return {};
  }
  transport::Request recv(transport::Tag, base::Bytes) override { return {}; }
  base::Result<std::unique_ptr<transport::LentRegion>> lend(
      const transport::SharedRegion&) override {
    ++ever;
    return std::unique_ptr<transport::LentRegion>(std::make_unique<Loan>(now));
  }
  base::Rank peer() const override { return base::Rank(1); }
  transport::Capabilities capabilities() const override {
    return {.transport = "test", .same_host = true, .shared_regions = true};
  }
  transport::Traffic traffic() const override { return {}; }
  void abort(base::Error) override {}
  void close(base::TimePoint) override {}

  int ever = 0;
  int now = 0;
};

TEST(LentMemory, IsLentOnceAndUsedAgain) {
  LendingLink link;
  SharedBuffer kept;
  {
    LentMemory memory({&link}, 1024);
    SharedBuffer first = memory.allocate(500);
    kept = memory.allocate(500);
    EXPECT_EQ(link.ever, 1) << "both are of one block";
    const std::byte* place = first->data();
    for (int i = 0; i < 100; ++i) {
      first.reset();
      first = memory.allocate(500);
      EXPECT_EQ(first->data(), place);
      EXPECT_EQ(first->size(), 500U);
    }
    EXPECT_EQ(link.ever, 1);
    SharedBuffer large = memory.allocate(5000);
    EXPECT_EQ(link.ever, 2);
    EXPECT_EQ(memory.allocate(0)->size(), 0U);
  }
  EXPECT_EQ(link.now, 1) << "who holds a buffer keeps its block";
  EXPECT_EQ(kept->size(), 500U);
  kept.reset();
  EXPECT_EQ(link.now, 0);
}

TEST(LentMemory, IsOrdinaryWhereNobodyCanRead) {
  LentMemory memory({}, 1024);
  EXPECT_FALSE(memory.allocate(500)->is_borrowed());
}

}  // namespace
}  // namespace gearshift::ps
