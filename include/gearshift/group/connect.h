#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "gearshift/group/group.h"
#include "gearshift/rendezvous/store.h"
#include "gearshift/transport/transport.h"

namespace gearshift::group {

struct ConnectOptions {
  base::Rank rank;
  int size = 1;
  base::Generation generation{1};
  base::Duration timeout = std::chrono::seconds(30);
  /// Asked about ten times a second while others are waited for, on the task that called `connect`;
  /// an error ends that, is told to the others, and is what `connect` returns. Empty: nothing does.
  std::function<base::Status()> go_on{};
};

/// Publishes this rank's transport addresses in the store, waits for those of the others and makes
/// a full mesh: for each pair the most preferred transport that reaches in both directions; the
/// higher rank connects, the lower accepts. On kTimeout the error names the ranks that are missing.
/// `transports` must outlive the group (kept by the result).
base::Result<std::unique_ptr<Group>> connect(
    base::Scheduler& scheduler, std::shared_ptr<transport::Router> router, rendezvous::Store& store,
    std::vector<std::shared_ptr<transport::Transport>> transports, const ConnectOptions& options);

/// All ranks of an in-process group over `inproc`, for tests and one-process programs: element r is
/// rank r's group. Each must be used by a task of its own.
base::Result<std::vector<std::unique_ptr<Group>>> make_local_groups(base::Scheduler& scheduler,
                                                                    int size,
                                                                    base::Duration timeout);

}  // namespace gearshift::group
