#include <nanobind/stl/string.h>

#include <stdexcept>
#include <string>

#include "bindings.h"

namespace gearshift::python {
namespace {

/// What the Python files beside a module know; "" where they are too old to say.
std::string known_to(const std::string& package) {
  try {
    return nb::cast<std::string>(
        nb::module_::import_((package + "._bindings").c_str()).attr("DIGEST"));
  } catch (nb::python_error&) {
    return {};
  }
}

}  // namespace

void check_interface(const nb::module_& m) {
  const auto name = nb::cast<std::string>(m.attr("__name__"));
  const std::size_t dot = name.rfind('.');
  if (dot == std::string::npos) return;  // loaded alone, for its stubs
  const std::string known = known_to(name.substr(0, dot));
  if (known == GEARSHIFT_BINDINGS) return;
  const auto file = nb::cast<std::string>(nb::str(nb::getattr(m, "__file__", nb::str(""))));
  throw std::runtime_error(  // becomes an ImportError
      "gearshift's compiled part, " + file +
      ", was built from other sources than the Python "
      "files beside it (bindings " GEARSHIFT_BINDINGS ", they have " +
      (known.empty() ? "older ones" : known) +
      "): build it anew, with `make setup` in a checkout, or `pip install .` there");
}

}  // namespace gearshift::python
