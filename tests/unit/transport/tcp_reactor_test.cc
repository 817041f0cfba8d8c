#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <functional>
#include <future>
#include <vector>

#include "transport/tcp/reactor.h"

namespace gearshift::transport::tcp {
namespace {

using std::chrono::milliseconds;

struct Handler final : Reactor::Handler {
  void on_events(std::uint32_t) override { event(); }
  void on_alarm() override { alarm(); }
  std::function<void()> event = [] {};
  std::function<void()> alarm = [] {};
};

/// A reactor with three handlers, whose first gets an event.
class TcpReactorTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (auto& handler : handlers) {
      handler = std::make_shared<Handler>();
      fds.emplace_back(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
      ids.push_back(reactor->reserve());
      ASSERT_TRUE(reactor->add(ids.back(), fds.back(), EPOLLIN, handler).ok());
    }
  }
  void poke() {
    const std::uint64_t one = 1;
    ASSERT_EQ(::write(fds[0].get(), &one, sizeof(one)), 8);
  }
  void calm() {
    std::uint64_t count = 0;
    ASSERT_EQ(::read(fds[0].get(), &count, sizeof(count)), 8);
  }

  std::unique_ptr<base::Scheduler> scheduler = base::make_os_scheduler();
  std::shared_ptr<Reactor> reactor = *Reactor::make();
  std::array<std::shared_ptr<Handler>, 3> handlers;
  std::vector<base::Fd> fds;
  std::vector<Reactor::Id> ids;
};

TEST_F(TcpReactorTest, AlarmsRingInTheOrderOfTheirTimes) {
  // As exactly as the clock tells: setting them takes time, too.
  struct Due {
    base::TimePoint earliest, latest;
  };
  std::array<Due, 3> due;
  std::vector<std::size_t> order;
  std::promise<void> done;
  handlers[0]->event = [&] {
    calm();
    for (const std::size_t i : {2, 0, 1}) {
      const milliseconds wait(10 + 10 * i);
      due[i].earliest = scheduler->now() + wait;
      reactor->call_after(ids[i], wait);
      due[i].latest = scheduler->now() + wait;
    }
  };
  for (std::size_t i = 0; i < 3; ++i) {
    handlers[i]->alarm = [&, i] {
      EXPECT_GE(scheduler->now() + milliseconds(1), due[i].earliest);
      order.push_back(i);
      if (order.size() == 3) done.set_value();
    };
  }
  RunningReactor running(*scheduler, reactor);
  poke();
  done.get_future().get();
  for (std::size_t later = 0; later < 3; ++later) {
    for (std::size_t sooner = 0; sooner < later; ++sooner) {
      EXPECT_LE(due[order[sooner]].earliest, due[order[later]].latest);
    }
  }
}

TEST_F(TcpReactorTest, AnAlarmMaySetTheNext) {
  int rung = 0;
  std::promise<void> done;
  handlers[0]->event = [&] {
    calm();
    reactor->call_after(ids[0], milliseconds(1));
  };
  handlers[0]->alarm = [&] {
    if (++rung == 20) return done.set_value();
    reactor->call_after(ids[0], std::chrono::microseconds(200));
  };
  RunningReactor running(*scheduler, reactor);
  poke();
  done.get_future().get();
}

TEST_F(TcpReactorTest, WhoIsNoLongerRegisteredIsNotCalled) {
  std::promise<void> done;
  bool called = false;
  handlers[0]->event = [&] {
    calm();
    reactor->call_after(ids[1], milliseconds(5));
    reactor->call_after(ids[2], milliseconds(10));
    reactor->remove(ids[1], fds[1]);
  };
  handlers[1]->alarm = [&] { called = true; };
  handlers[2]->alarm = [&] { done.set_value(); };
  RunningReactor running(*scheduler, reactor);
  poke();
  done.get_future().get();
  EXPECT_FALSE(called);
}

}  // namespace
}  // namespace gearshift::transport::tcp
