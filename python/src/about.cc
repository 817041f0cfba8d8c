#include <nanobind/stl/string.h>

#include "bindings.h"
#include "gearshift/kernels/target.h"
#include "gearshift/transport/handshake.h"

namespace gearshift::python {

void bind_about(nb::module_& m) {
  m.attr("version") = GEARSHIFT_VERSION;
  m.attr("protocol") = transport::kProtocolVersion;
  m.def("simd_target", &kernels::simd_target,
        "The instruction set that the core's kernels use on this processor.");
}

}  // namespace gearshift::python
