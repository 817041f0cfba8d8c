#include "bindings.h"

NB_MODULE(_core, m) {
  gearshift::python::check_interface(m);
  m.doc() = "The compiled core of gearshift; use the package gearshift instead.";
  // The session and its replicas live as long as the process does.
  gearshift::python::nb::set_leak_warnings(false);
  gearshift::python::bind_about(m);
  gearshift::python::bind_errors(m);
  gearshift::python::bind_strategy(m);
  gearshift::python::bind_optimizer(m);
  gearshift::python::bind_replica(m);
  gearshift::python::bind_session(m);
  gearshift::python::bind_store(m);
}
