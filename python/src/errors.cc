#include <nanobind/stl/string.h>

#include "calls.h"

namespace gearshift::python {
namespace {

/// gearshift.errors decides which class an error becomes.
void translate(const std::exception_ptr& thrown, void*) {
  try {
    std::rethrow_exception(thrown);
  } catch (const CoreError& e) {
    const base::Error& error = e.error();
    nb::object instance =
        nb::module_::import_("gearshift.errors")
            .attr("from_core")(base::to_string(error.code), error.message, error.culprit);
    PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(instance.ptr())), instance.ptr());
  }
}

}  // namespace

void raise(const base::Error& error) {
  if (PyErr_Occurred() != nullptr || PyErr_CheckSignals() != 0) throw nb::python_error();
  throw CoreError(error);
}

base::Error error_of(const nb::python_error& e, const std::string& where) {
  const std::string type = nb::cast<std::string>(e.type().attr("__name__"));
  const std::string text = nb::cast<std::string>(nb::str(e.value()));
  return {base::ErrorCode::kInvalidArgument, where + ": " + type + ": " + text};
}

void bind_errors(nb::module_& m) {
  nb::register_exception_translator(translate, nullptr);
  nb::list codes;
  for (int i = 0; i <= static_cast<int>(base::ErrorCode::kClosed); ++i) {
    codes.append(base::to_string(static_cast<base::ErrorCode>(i)));
  }
  m.attr("error_codes") = nb::tuple(codes);
}

}  // namespace gearshift::python
