#include <nanobind/stl/string.h>

#include <memory>

#include "calls.h"
#include "gearshift/base/scheduler.h"
#include "gearshift/rendezvous/tcp/factory.h"

namespace gearshift::python {
namespace {

/// A rendezvous store of its own, for jobs whose rank 0 shall not serve one.
class StoreServer {
 public:
  StoreServer(const std::string& host, int port, const std::string& token)
      : scheduler_(base::make_os_scheduler()),
        server_(unwrap(rendezvous::tcp::serve(*scheduler_, host, port, token))) {}
  std::string address() const { return server_->address(); }

 private:
  std::unique_ptr<base::Scheduler> scheduler_;
  std::unique_ptr<rendezvous::tcp::Server> server_;
};

/// Sets a key of a store, unless it is set. False when it was.
bool set_once(const std::string& host, int port, const std::string& token, const std::string& key,
              const std::string& value, double seconds) {
  const auto scheduler = base::make_os_scheduler();
  return call([&]() -> base::Result<bool> {
    const base::TimePoint deadline = scheduler->after(base::from_seconds(seconds));
    GEARSHIFT_ASSIGN_OR_RETURN(const auto store,
                               rendezvous::tcp::connect(*scheduler, host, port, token, deadline));
    if (store->get(key, scheduler->now())) return false;
    GEARSHIFT_RETURN_IF_ERROR(store->set(key, value));
    return true;
  });
}

}  // namespace

void bind_store(nb::module_& m) {
  nb::class_<StoreServer>(m, "StoreServer", "Serves a rendezvous store until it is deleted.")
      .def(nb::init<const std::string&, int, const std::string&>(), nb::arg("host"),
           nb::arg("port"), nb::arg("token"))
      .def_prop_ro("address", &StoreServer::address, "host:port, with the port that was bound.");
  m.def("store_set_once", &set_once, nb::arg("host"), nb::arg("port"), nb::arg("token"),
        nb::arg("key"), nb::arg("value"), nb::arg("seconds"));
}

}  // namespace gearshift::python
