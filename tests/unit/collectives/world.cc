#include "world.h"

#include "gearshift/transport/shm/factory.h"
#include "gearshift/transport/tcp/factory.h"

namespace gearshift::collectives::testing {
namespace {

/// A transport whose ranks need nothing in common but the machine.
template <typename Create>
Wire wire(std::string name, Create create) {
  return {std::move(name), [create](base::Scheduler& scheduler) -> MakeTransport {
            return [create, &scheduler](auto router, auto identity) {
              return create(scheduler, std::move(router), std::move(identity));
            };
          }};
}

}  // namespace

std::vector<Wire> wires() {
  return {
      inproc_wire(),
      wire("tcp", [](auto&&... from) { return transport::tcp::create(from...); }),
      wire("shm", [](auto&&... from) { return transport::shm::create(from...); }),
  };
}

}  // namespace gearshift::collectives::testing
