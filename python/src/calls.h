#pragma once

#include <exception>
#include <string>
#include <utility>

#include "bindings.h"
#include "gearshift/base/result.h"
#include "gil.h"

namespace gearshift::python {

/// A base::Error on its way to Python, where gearshift.errors makes the exception of it.
class CoreError : public std::exception {
 public:
  explicit CoreError(base::Error error) : error_(std::move(error)) {}
  const char* what() const noexcept override { return error_.message.c_str(); }
  const base::Error& error() const { return error_; }

 private:
  base::Error error_;
};

/// Throws what Python shall see: a pending signal's exception (KeyboardInterrupt) goes first,
/// since it may be the reason for the error. Needs the GIL.
[[noreturn]] void raise(const base::Error& error);

template <typename T>
T unwrap(base::Result<T> result) {
  if (!result) raise(result.error());
  return std::move(result).value();
}
inline void unwrap(const base::Status& status) {
  if (!status) raise(status.error());
}

/// The text of a Python exception as an error of the core.
base::Error error_of(const nb::python_error& e, const std::string& where);

/// Counts calls that wait without the GIL, so that a Ctrl-C during one of them is acted upon.
class BlockingScope {
 public:
  BlockingScope();
  ~BlockingScope();
  BlockingScope(const BlockingScope&) = delete;
  BlockingScope& operator=(const BlockingScope&) = delete;
};

/// Runs `f`, which may wait, without the GIL; returns its value or throws its error.
template <typename F>
auto call(F&& f) {
  const BlockingScope scope;
  // A signal from before the count is seen here, one from after it by the signal thread.
  if (PyErr_CheckSignals() != 0) throw nb::python_error();
  auto result = [&] {
    GilReleased released;
    return f();
  }();
  return unwrap(std::move(result));
}

}  // namespace gearshift::python
