#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "gearshift/base/result.h"
#include "gearshift/base/scheduler.h"
#include "gearshift/rendezvous/store.h"
#include "gearshift/rendezvous/tcp/factory.h"
#include "gearshift/runtime/session.h"

namespace gearshift::runtime {

/// Where the ranks of a session meet. The parts end in the order that a store's users need.
struct Place {
  std::unique_ptr<rendezvous::tcp::Server> server;  ///< of the store, on the rank that serves it
  std::unique_ptr<rendezvous::Store> store;
  std::unique_ptr<rendezvous::Store> first_store;  ///< of files, in later sessions: of the first
  std::string host = "127.0.0.1";                  ///< at which this rank listens
  std::uint64_t number = 0;                        ///< of the server (see rendezvous/tcp/factory.h)

  Place() = default;
  Place(Place&&) = default;
  Place& operator=(Place&& other) noexcept;
};

/// Finds the store that `options.rdzv` names, within `patience`; rank 0 serves it. Stores of
/// sessions that are over are passed by. `options.rdzv` follows `options.rdzv_now`; the place asks
/// `options.go_on`, and must not outlive them.
base::Result<Place> find_place(base::Scheduler& scheduler, SessionOptions& options,
                               base::Duration patience);

}  // namespace gearshift::runtime
