#pragma once

#include <nanobind/ndarray.h>

#include <cstdint>
#include <vector>

#include "bindings.h"
#include "gearshift/base/bytes.h"
#include "gearshift/ps/client.h"

namespace gearshift::python {

using ByteArray = nb::ndarray<nb::numpy, std::uint8_t, nb::ndim<1>>;

/// A NumPy array over memory that `owner` keeps alive.
ByteArray byte_array(base::Bytes memory, nb::handle owner);

/// Optimizer state per parameter as a list of (tensors, scalars): dict of byte arrays by name, dict
/// of numbers by name. Both need the GIL.
nb::list to_python(std::vector<ps::StateEntry> state);
std::vector<ps::StateEntry> state_from_python(nb::handle state);

}  // namespace gearshift::python
