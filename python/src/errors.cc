#include <nanobind/stl/string.h>

#include <string_view>

#include "calls.h"

namespace gearshift::python {
namespace {

/// A path or the text of another process may hold bytes that are no UTF-8.
nb::object to_python(std::string_view text) {
  const auto size = static_cast<Py_ssize_t>(text.size());
  return nb::steal(PyUnicode_DecodeUTF8(text.data(), size, "replace"));
}

/// What an exception says, with escapes for what UTF-8 cannot say: bytes of names of files.
std::string said_by(nb::handle exception) {
  const nb::object text = nb::steal(PyObject_Str(exception.ptr()));
  const nb::object bytes =
      text.is_valid()
          ? nb::steal(PyUnicode_AsEncodedString(text.ptr(), "utf-8", "backslashreplace"))
          : nb::object();
  if (bytes.is_valid()) return {PyBytes_AsString(bytes.ptr())};
  PyErr_Clear();
  return "(nothing that can be shown)";
}

/// gearshift.errors decides which class an error becomes.
void translate(const std::exception_ptr& thrown, void*) {
  try {
    std::rethrow_exception(thrown);
  } catch (const CoreError& e) {
    const base::Error& error = e.error();
    nb::object instance = nb::module_::import_("gearshift.errors")
                              .attr("from_core")(base::to_string(error.code),
                                                 to_python(error.message), error.culprit);
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
  return {base::ErrorCode::kInvalidArgument, where + ": " + type + ": " + said_by(e.value())};
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
