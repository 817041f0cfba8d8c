#pragma once

#include <memory>

#include "gearshift/rendezvous/store.h"

namespace gearshift::rendezvous::memory {

/// A store for the ranks of one process; share it by pointer.
std::shared_ptr<Store> make(base::Scheduler& scheduler);

}  // namespace gearshift::rendezvous::memory
