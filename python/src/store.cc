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

}  // namespace

void bind_store(nb::module_& m) {
  nb::class_<StoreServer>(m, "StoreServer", "Serves a rendezvous store until it is deleted.")
      .def(nb::init<const std::string&, int, const std::string&>(), nb::arg("host"),
           nb::arg("port"), nb::arg("token"))
      .def_prop_ro("address", &StoreServer::address, "host:port, with the port that was bound.");
}

}  // namespace gearshift::python
