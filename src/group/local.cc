#include <optional>

#include "gearshift/group/connect.h"
#include "gearshift/rendezvous/memory/factory.h"
#include "gearshift/transport/inproc/factory.h"

namespace gearshift::group {
namespace {

using LocalGroup = base::Result<std::unique_ptr<Group>>;

LocalGroup connect_one(base::Scheduler& scheduler, rendezvous::Store& store,
                       const std::shared_ptr<transport::inproc::Hub>& hub, base::Rank rank,
                       int size, base::Duration timeout) {
  auto router = std::make_shared<transport::Router>(scheduler);
  // One process cannot be a stranger to itself: any token will do.
  const transport::Identity identity{rank, base::Generation(1), "local"};
  GEARSHIFT_ASSIGN_OR_RETURN(std::shared_ptr<transport::Transport> transport,
                             transport::inproc::create(hub, router, identity));
  ConnectOptions options;
  options.rank = rank;
  options.size = size;
  options.timeout = timeout;
  return connect(scheduler, std::move(router), store, {std::move(transport)}, options);
}

}  // namespace

base::Result<std::vector<std::unique_ptr<Group>>> make_local_groups(base::Scheduler& scheduler,
                                                                    int size,
                                                                    base::Duration timeout) {
  auto store = rendezvous::memory::make(scheduler);
  auto hub = transport::inproc::make_hub(scheduler);
  std::vector<std::optional<LocalGroup>> made(static_cast<std::size_t>(size));
  std::vector<std::unique_ptr<base::Task>> tasks;
  for (int r = 0; r < size; ++r) {
    auto& slot = made[static_cast<std::size_t>(r)];
    tasks.push_back(scheduler.spawn("connect", [&scheduler, &store, &hub, &slot, r, size, timeout] {
      slot = connect_one(scheduler, *store, hub, base::Rank(r), size, timeout);
    }));
  }
  for (auto& task : tasks) task->join();

  std::vector<std::unique_ptr<Group>> groups;
  for (auto& slot : made) {
    GEARSHIFT_ASSIGN_OR_RETURN(auto group, std::move(*slot));
    groups.push_back(std::move(group));
  }
  return groups;
}

}  // namespace gearshift::group
