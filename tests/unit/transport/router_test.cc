#include "gearshift/transport/router.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>

namespace gearshift::transport {
namespace {

using base::Error;
using base::ErrorCode;
using base::Rank;

class RouterTest : public ::testing::Test {
 protected:
  std::unique_ptr<base::Scheduler> scheduler = base::make_os_scheduler();
  Router router{*scheduler};
};

TEST_F(RouterTest, KeepsMessagesUntilTheirMailboxIsAskedFor) {
  router.deliver({Rank(3), Tag(kFirstService, 1, 0), {}, {}});
  auto box = router.mailbox(kFirstService);
  EXPECT_EQ(box, router.mailbox(kFirstService));
  EXPECT_NE(box, router.mailbox(kFirstService + 1));
  auto message = box->try_pop();
  ASSERT_TRUE(message.has_value());
  EXPECT_EQ(message->from, Rank(3));
  EXPECT_FALSE(box->try_pop().has_value());
}

TEST_F(RouterTest, ReplaysEarlyLossesOnce) {
  router.report_lost(Rank(1), {ErrorCode::kPeerLost, "gone"});
  router.report_lost(Rank(2), {ErrorCode::kPeerLost, "gone, too"});
  std::vector<int> lost;
  router.on_lost([&](Rank peer, const Error&) { lost.push_back(peer.value); });
  EXPECT_EQ(lost, (std::vector<int>{1, 2}));
  router.report_lost(Rank(3), {ErrorCode::kPeerLost, "gone as well"});
  EXPECT_EQ(lost, (std::vector<int>{1, 2, 3}));

  router.on_lost({});
  router.report_lost(Rank(4), {ErrorCode::kPeerLost, "unheard"});
  EXPECT_EQ(lost.size(), 3U);
  std::vector<int> later;
  router.on_lost([&](Rank peer, const Error&) { later.push_back(peer.value); });
  EXPECT_EQ(later, std::vector<int>{4});
}

TEST_F(RouterTest, AFormerListenerIsNotRunningAnyMore) {
  // The listener's state dies right after `on_lost` returns: a sanitizer sees a call that is late.
  auto task = scheduler->spawn("reporter", [&] {
    for (int i = 0; i < 2000; ++i) router.report_lost(Rank(1), {ErrorCode::kPeerLost, "gone"});
  });
  for (int i = 0; i < 200; ++i) {
    auto count = std::make_unique<std::atomic<int>>(0);
    router.on_lost([p = count.get()](Rank, const Error&) { ++*p; });
    router.on_lost({});
    count.reset();
  }
  task->join();
}

}  // namespace
}  // namespace gearshift::transport
