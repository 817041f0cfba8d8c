#pragma once

#include <unistd.h>

#include "bindings.h"

namespace gearshift::python {

/// Runs what asks for the GIL. Once the interpreter ends, Python before 3.14 ends the thread that
/// does: it unwinds its stack, and where that comes to a destructor, C++ ends the whole process.
/// Such a thread stands still instead, as it does in later versions of Python.
template <typename F>
auto or_stand_still(F&& ask) {
  try {
    return ask();
  } catch (...) {  // nothing else is thrown there
    while (true) ::pause();
  }
}

/// nanobind's gil_scoped_release, for threads that may outlive the interpreter: daemon threads.
class GilReleased {
 public:
  GilReleased() : state_(PyEval_SaveThread()) {}
  ~GilReleased() {
    or_stand_still([this] { PyEval_RestoreThread(state_); });
  }
  GilReleased(const GilReleased&) = delete;
  GilReleased& operator=(const GilReleased&) = delete;

 private:
  PyThreadState* const state_;
};

/// nanobind's gil_scoped_acquire, for threads that may outlive the interpreter: the core's.
class GilHeld {
 public:
  GilHeld() : state_(or_stand_still([] { return PyGILState_Ensure(); })) {}
  ~GilHeld() { PyGILState_Release(state_); }
  GilHeld(const GilHeld&) = delete;
  GilHeld& operator=(const GilHeld&) = delete;

 private:
  const PyGILState_STATE state_;
};

}  // namespace gearshift::python
