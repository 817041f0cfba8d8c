#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "gearshift/group/connect.h"
#include "gearshift/rendezvous/memory/factory.h"
#include "gearshift/transport/inproc/factory.h"
#include "gearshift/transport/tcp/factory.h"
#include "support/ranks.h"

namespace gearshift::testing {

/// What carries the bytes of a group under test.
enum class Wire { kInproc, kTcp };
inline std::string to_string(Wire wire) { return wire == Wire::kTcp ? "tcp" : "inproc"; }

/// Makes transports for the ranks of one job within this process.
class Meeting {
 public:
  Meeting(base::Scheduler& scheduler, Wire wire)
      : scheduler_(scheduler),
        wire_(wire),
        store_(rendezvous::memory::make(scheduler)),
        hub_(transport::inproc::make_hub(scheduler)) {}

  rendezvous::Store& store() { return *store_; }

  base::Result<std::unique_ptr<transport::Transport>> transport(
      std::shared_ptr<transport::Router> router, base::Rank rank) {
    const transport::Identity identity{rank, base::Generation(1), "token"};
    if (wire_ == Wire::kTcp) return transport::tcp::create(scheduler_, router, identity);
    return transport::inproc::create(hub_, router, identity);
  }

  base::Result<std::unique_ptr<group::Group>> join(int rank, int size, base::Duration timeout) {
    auto router = std::make_shared<transport::Router>(scheduler_);
    GEARSHIFT_ASSIGN_OR_RETURN(std::shared_ptr<transport::Transport> made,
                               transport(router, base::Rank(rank)));
    group::ConnectOptions options;
    options.rank = base::Rank(rank);
    options.size = size;
    options.timeout = timeout;
    return group::connect(scheduler_, router, *store_, {made}, options);
  }

 private:
  base::Scheduler& scheduler_;
  const Wire wire_;
  std::shared_ptr<rendezvous::Store> store_;
  std::shared_ptr<transport::inproc::Hub> hub_;
};

/// Element r is rank r's group, with this timeout from now on: to connect may take longer on a busy
/// machine. Fails the test when they cannot.
inline std::vector<std::unique_ptr<group::Group>> make_groups(base::Scheduler& scheduler, Wire wire,
                                                              int size, base::Duration timeout) {
  Meeting meeting(scheduler, wire);
  std::vector<std::unique_ptr<group::Group>> groups(static_cast<std::size_t>(size));
  run_ranks(scheduler, size, [&](int rank) {
    auto group = meeting.join(rank, size, std::chrono::seconds(60));
    ASSERT_TRUE(group) << group.error().message;
    (*group)->context()->timeout = timeout;
    groups[static_cast<std::size_t>(rank)] = std::move(*group);
  });
  return groups;
}

}  // namespace gearshift::testing
