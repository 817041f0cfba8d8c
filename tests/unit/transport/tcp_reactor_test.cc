#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <functional>
#include <future>
#include <string>

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
  std::vector<Fd> fds;
  std::vector<Reactor::Id> ids;
};

TEST_F(TcpReactorTest, AlarmsRingInTheOrderOfTheirTimes) {
  std::string order;
  std::promise<base::Duration> done;
  base::TimePoint begin;
  handlers[0]->event = [&] {
    calm();
    begin = scheduler->now();
    reactor->call_after(ids[2], milliseconds(30));
    reactor->call_after(ids[0], milliseconds(10));
    reactor->call_after(ids[1], milliseconds(20));
  };
  handlers[0]->alarm = [&] { order += '0'; };
  handlers[1]->alarm = [&] { order += '1'; };
  handlers[2]->alarm = [&] { done.set_value(scheduler->now() - begin); };
  RunningReactor running(*scheduler, reactor);
  poke();
  EXPECT_GE(done.get_future().get(), milliseconds(29));
  EXPECT_EQ(order, "01");
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
