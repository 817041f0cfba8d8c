#include <gtest/gtest.h>

#include <array>
#include <utility>

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

TEST(ParameterStore, PhantomsStayPhantoms) {
  ParameterStore store({base::ConstBytes(static_cast<const std::byte*>(nullptr), 64)});
  Outbox outbox;
  SlowLink link;
  outbox.send(link, {}, store.snapshot(0));
  EXPECT_TRUE(base::is_phantom(store.writable(0)));
  EXPECT_EQ(store.view(0).size(), 64U);
}

}  // namespace
}  // namespace gearshift::ps
