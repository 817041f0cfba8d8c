#pragma once

#include <nanobind/nanobind.h>

namespace gearshift::python {

namespace nb = nanobind;

// One function per file of this folder; each adds its part to gearshift._core. The classes and
// functions there are for the Python package alone: users see what the package wraps around them.
void bind_errors(nb::module_& m);
void bind_strategy(nb::module_& m);
void bind_optimizer(nb::module_& m);
void bind_replica(nb::module_& m);
void bind_session(nb::module_& m);
void bind_store(nb::module_& m);

}  // namespace gearshift::python
