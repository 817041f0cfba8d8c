#include "world.h"

namespace gearshift::collectives::testing {

std::vector<Wire> wires() { return {inproc_wire()}; }

}  // namespace gearshift::collectives::testing
