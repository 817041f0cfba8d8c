#pragma once

#include <nanobind/nanobind.h>

#include <cstddef>
#include <vector>

namespace gearshift::python {

namespace nb = nanobind;

// One function per file of this folder; each adds its part to gearshift._core. The classes and
// functions there are for the Python package alone: users see what the package wraps around them.
void bind_about(nb::module_& m);
void bind_errors(nb::module_& m);
void bind_strategy(nb::module_& m);
void bind_optimizer(nb::module_& m);
void bind_replica(nb::module_& m);
void bind_session(nb::module_& m);
void bind_store(nb::module_& m);

/// Throws what becomes an ImportError when the module was built from other sources than the Python
/// files beside it: one would miss what the other has. Call first.
void check_interface(const nb::module_& m);

/// One flag per byte, as Python has them.
inline std::vector<bool> flags_of(const nb::bytes& bytes) {
  std::vector<bool> flags(bytes.size());
  for (std::size_t i = 0; i < flags.size(); ++i) flags[i] = bytes.c_str()[i] != 0;
  return flags;
}

}  // namespace gearshift::python
