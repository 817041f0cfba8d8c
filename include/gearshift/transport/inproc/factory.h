#pragma once

#include <memory>

#include "gearshift/transport/transport.h"

namespace gearshift::transport::inproc {

/// Where the ranks of one process meet: tests and one-process multi-rank programs share a hub.
class Hub;
std::shared_ptr<Hub> make_hub(base::Scheduler& scheduler);

/// Ranks as tasks of one process. `identity.token` is checked like everywhere.
base::Result<std::unique_ptr<Transport>> create(std::shared_ptr<Hub> hub,
                                                std::shared_ptr<Router> router, Identity identity);

}  // namespace gearshift::transport::inproc
