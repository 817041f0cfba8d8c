#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>

#include "calls.h"
#include "gearshift/base/scheduler.h"
#include "gearshift/rendezvous/file/factory.h"
#include "gearshift/rendezvous/tcp/factory.h"

namespace gearshift::python {
namespace {

/// A rendezvous store of its own, for jobs whose rank 0 shall not serve one.
class StoreServer {
 public:
  StoreServer(const std::string& host, int port, const std::string& token)
      : scheduler_(base::make_os_scheduler()),
        server_(unwrap(rendezvous::tcp::serve(*scheduler_, host, port, token, true))),
        process_(getpid()) {}
  ~StoreServer() {
    if (getpid() == process_) return;
    // A forked child has no thread of the server's, and the socket is its parent's.
    static_cast<void>(server_.release());
    static_cast<void>(scheduler_.release());
  }
  StoreServer(const StoreServer&) = delete;
  StoreServer& operator=(const StoreServer&) = delete;
  std::string address() const { return server_->address(); }

 private:
  std::unique_ptr<base::Scheduler> scheduler_;
  std::unique_ptr<rendezvous::tcp::Server> server_;
  const pid_t process_;  ///< that made it
};

/// A client of the rendezvous that a job has.
class StoreClient {
 public:
  StoreClient(const std::string& rdzv, const std::string& token, double patience)
      : scheduler_(base::make_os_scheduler()) {
    constexpr std::string_view kFile = "file://";
    if (rdzv.starts_with(kFile)) {
      store_ = unwrap(rendezvous::file::open(*scheduler_, rdzv.substr(kFile.size())));
      return;
    }
    const std::size_t begin = rdzv.starts_with("tcp://") ? 6 : 0;
    const std::size_t colon = rdzv.rfind(':');
    if (colon == std::string::npos || colon < begin) {
      raise(base::Error(base::ErrorCode::kInvalidArgument, "'" + rdzv + "' is not HOST:PORT"));
    }
    store_ = call([&] {
      return rendezvous::tcp::connect(*scheduler_, rdzv.substr(begin, colon - begin),
                                      std::atoi(rdzv.c_str() + colon + 1), token,
                                      scheduler_->after(base::from_seconds(patience)), &address_);
    });
  }

  void set(const std::string& key, const std::string& value) {
    call([&] { return store_->set(key, value); });
  }
  std::optional<std::string> get(const std::string& key, double patience) {
    return call([&]() -> base::Result<std::optional<std::string>> {
      auto found = store_->get(key, scheduler_->after(base::from_seconds(patience)));
      if (found) return std::optional<std::string>(std::move(*found));
      if (found.error().code == base::ErrorCode::kTimeout) return std::optional<std::string>();
      return found.error();
    });
  }
  const std::string& own_address() const { return address_; }

 private:
  std::unique_ptr<base::Scheduler> scheduler_;
  std::unique_ptr<rendezvous::Store> store_;
  std::string address_ = "127.0.0.1";
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
  nb::class_<StoreClient>(m, "Store", "The rendezvous of a job: file:///folder or tcp://HOST:PORT.")
      .def(nb::init<const std::string&, const std::string&, double>(), nb::arg("rdzv"),
           nb::arg("token"), nb::arg("patience"))
      .def("set", &StoreClient::set, nb::arg("key"), nb::arg("value"))
      .def("get", &StoreClient::get, nb::arg("key"), nb::arg("patience"),
           "What the key holds; None when nobody has set it after `patience` seconds.")
      .def_prop_ro("own_address", &StoreClient::own_address,
                   "This end of the connection, where the process would listen.");
  m.def("store_set_once", &set_once, nb::arg("host"), nb::arg("port"), nb::arg("token"),
        nb::arg("key"), nb::arg("value"), nb::arg("seconds"));
}

}  // namespace gearshift::python
