#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "gearshift/base/scheduler.h"
#include "gearshift/collectives/collectives.h"
#include "gearshift/group/connect.h"
#include "gearshift/group/group.h"
#include "gearshift/rendezvous/memory/factory.h"
#include "gearshift/transport/inproc/factory.h"

namespace gearshift::collectives::testing {

/// Makes one rank's transport.
using MakeTransport = std::function<base::Result<std::unique_ptr<transport::Transport>>(
    std::shared_ptr<transport::Router>, transport::Identity)>;

/// A transport to run the suite over: one line each in `wires()`.
struct Wire {
  std::string name;
  std::function<MakeTransport(base::Scheduler&)> open;
};

inline Wire inproc_wire() {
  return {"inproc", [](base::Scheduler& scheduler) -> MakeTransport {
            return [hub = transport::inproc::make_hub(scheduler)](auto router, auto identity) {
              return transport::inproc::create(hub, std::move(router), std::move(identity));
            };
          }};
}

std::vector<Wire> wires();

/// Some ranks in this process, connected over one transport; each runs as a task.
class World {
 public:
  World(const Wire& wire, int size, base::Duration timeout = std::chrono::seconds(20))
      : scheduler_(base::make_os_scheduler()) {
    auto store = rendezvous::memory::make(*scheduler_);
    const MakeTransport make = wire.open(*scheduler_);
    groups_.resize(static_cast<std::size_t>(size));
    in_parallel(size, [&](int r) {
      auto router = std::make_shared<transport::Router>(*scheduler_);
      auto transport = make(router, {base::Rank(r), base::Generation(1), "token"});
      ASSERT_TRUE(transport.ok()) << transport.error().to_string();
      auto group = group::connect(*scheduler_, router, *store, {std::move(transport).value()},
                                  {.rank = base::Rank(r), .size = size, .timeout = kConnectTime});
      ASSERT_TRUE(group.ok()) << group.error().to_string();
      (*group)->context()->timeout = timeout;
      groups_[static_cast<std::size_t>(r)] = std::move(group).value();
    });
  }

  /// Ranks that leave early must not look like losses to the others.
  ~World() {
    in_parallel(size(), [&](int r) {
      if (groups_[static_cast<std::size_t>(r)]) {
        at(r).close(scheduler_->after(std::chrono::seconds(5)));
      }
    });
  }

  int size() const { return static_cast<int>(groups_.size()); }
  group::Group& at(int rank) { return *groups_[static_cast<std::size_t>(rank)]; }
  base::Scheduler& scheduler() { return *scheduler_; }

  /// Lets the ranks believe that they are on these hosts.
  void place(const std::vector<int>& host_of, const group::LinkSpeeds& speeds = {}) {
    const auto topology = std::make_shared<const group::Topology>(host_of, speeds);
    for (const auto& group : groups_) group->set_topology(topology);
  }

  /// Runs `body` once per rank, at the same time, and waits for all.
  void run(const std::function<void(group::Group&)>& body) {
    in_parallel(size(), [&](int r) { body(at(r)); });
  }

 private:
  /// A busy machine may take longer than the timeout that is tested.
  static constexpr base::Duration kConnectTime = std::chrono::seconds(60);

  void in_parallel(int count, const std::function<void(int)>& body) {
    std::vector<std::unique_ptr<base::Task>> tasks;
    for (int r = 0; r < count; ++r) {
      tasks.push_back(scheduler_->spawn("rank " + std::to_string(r), [&body, r] { body(r); }));
    }
    for (auto& task : tasks) task->join();
  }

  std::unique_ptr<base::Scheduler> scheduler_;
  std::vector<std::unique_ptr<group::Group>> groups_;
};

inline constexpr Algorithm kAllAlgorithms[] = {Algorithm::kRing, Algorithm::kRecursiveDoubling,
                                               Algorithm::kRabenseifner, Algorithm::kTree,
                                               Algorithm::kHierarchical};

/// Ways to spread some ranks over hosts: all on one, each on its own, dealt out like cards to two
/// and to three, uneven blocks, and one that stands alone.
inline std::vector<std::vector<int>> placements(int size) {
  std::vector<std::vector<int>> all(6);
  for (int r = 0; r < size; ++r) {
    all[0].push_back(0);
    all[1].push_back(r);
    all[2].push_back(r % 2);
    all[3].push_back(r % 3);
    all[4].push_back(r < size / 2 ? 0 : r < size - 1 ? 1 : 2);
    all[5].push_back(r == 1 ? 1 : 0);
  }
  return all;
}

/// Between hosts at sites: those of a site are near each other.
inline group::LinkSpeeds speeds_at(const std::vector<int>& site_of, const group::LinkSpeed& near,
                                   const group::LinkSpeed& far) {
  group::LinkSpeeds speeds{.local = near};
  for (const int a : site_of) {
    for (const int b : site_of) speeds.between.push_back(a == b ? near : far);
  }
  return speeds;
}

/// The suite's parameters: a transport and a number of ranks.
struct Setting {
  Wire wire;
  int size = 1;
};

inline std::vector<Setting> settings(std::vector<int> sizes = {1, 2, 3, 4, 5, 6, 7, 8}) {
  std::vector<Setting> all;
  for (const Wire& wire : wires()) {
    for (int size : sizes) all.push_back({wire, size});
  }
  return all;
}

inline std::string name_of(const ::testing::TestParamInfo<Setting>& info) {
  return info.param.wire.name + "_" + std::to_string(info.param.size);
}

class OverWires : public ::testing::TestWithParam<Setting> {
 protected:
  int size() const { return GetParam().size; }
  World make_world(base::Duration timeout = std::chrono::seconds(20)) const {
    return {GetParam().wire, size(), timeout};
  }
};

}  // namespace gearshift::collectives::testing
