#include "gearshift/runtime/session.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <numeric>
#include <thread>
#include <vector>

#include "calls.h"
#include "gearshift/collectives/arrivals.h"
#include "gearshift/collectives/cost.h"
#include "replica.h"
#include "signals.h"

namespace gearshift::python {
namespace {

using base::Error;
using base::ErrorCode;

base::DType dtype_of(const std::string& name) {
  const auto dtype = base::dtype_from_string(name);
  if (!dtype) raise(Error(ErrorCode::kUnsupported, "no collective on elements of type " + name));
  return *dtype;
}

base::ReduceOp op_of(const std::string& name) {
  const auto op = base::reduce_op_from_string(name);
  if (!op) {
    raise(Error(ErrorCode::kInvalidArgument,
                "op '" + name + "' is none of sum, mean, min, max, product"));
  }
  return *op;
}

base::Bytes memory(std::uintptr_t address, std::size_t size) {
  return {reinterpret_cast<std::byte*>(address), size};  // NOLINT(performance-no-int-to-ptr)
}

/// Contiguous, writable memory of an object, for as long as this lives. Needs the GIL.
class BufferView {
 public:
  explicit BufferView(PyObject* object) {
    if (PyObject_CheckBuffer(object) == 0) return;
    constexpr int kFlags = PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE | PyBUF_FORMAT;
    held_ = PyObject_GetBuffer(object, &buffer_, kFlags) == 0;
    if (!held_) PyErr_Clear();
  }
  ~BufferView() {
    if (held_) PyBuffer_Release(&buffer_);
  }
  BufferView(const BufferView&) = delete;
  BufferView& operator=(const BufferView&) = delete;

  base::Bytes bytes() const {
    return {static_cast<std::byte*>(buffer_.buf), static_cast<std::size_t>(buffer_.len)};
  }
  /// Of native elements that travel; none for anything else.
  std::optional<base::DType> dtype() const {
    if (!held_ || buffer_.format == nullptr || buffer_.format[0] == 0 || buffer_.format[1] != 0) {
      return std::nullopt;
    }
    switch (buffer_.format[0]) {
      case 'd':
        return base::DType::kF64;
      case 'f':
        return base::DType::kF32;
      case 'e':
        return base::DType::kF16;
      case 'b':
        return base::DType::kI8;
      case 'B':
        return base::DType::kU8;
      case 'i':
        return base::DType::kI32;
      case 'l':
      case 'q':
        return buffer_.itemsize == 8 ? std::optional(base::DType::kI64) : std::nullopt;
      default:
        return std::nullopt;
    }
  }

 private:
  Py_buffer buffer_{};
  bool held_ = false;
};

/// The session, and the user's own collectives on it; arrays come as address and size in bytes.
/// Python threads may call at the same time: one collective runs after another, and so does what is
/// sent to one rank, or received from it.
class PythonSession {
 public:
  /// Without progress, of one operation; the session's when absent.
  using Seconds = std::optional<double>;

  explicit PythonSession(std::shared_ptr<runtime::Session> session)
      : session_(std::move(session)),
        sending_(static_cast<std::size_t>(session_->world_size())),
        receiving_(static_cast<std::size_t>(session_->world_size())),
        process_(getpid()) {}
  ~PythonSession() {
    // A forked child has none of the threads that would have to end, and the job is its parent's.
    if (getpid() == process_) return;
    (void)arrivals_.release();
    new std::shared_ptr<runtime::Session>(std::move(session_));
  }
  PythonSession(const PythonSession&) = delete;
  PythonSession& operator=(const PythonSession&) = delete;

  runtime::Session& core() const { return *session_; }
  const std::shared_ptr<runtime::Session>& shared() const { return session_; }

  template <typename F>
  void collective(std::mutex& mutex, F&& f) {
    call([&]() -> base::Status {
      const std::lock_guard<std::mutex> lock(mutex);
      const base::Status status = f(session_->workers());
      if (!status) return session_->explain(status.error());
      return status;
    });
  }

  /// all_reduce on an object with a buffer, as NumPy's arrays are: all that the general way does in
  /// Python is done here. False, with nothing done, when that way must decide.
  bool all_reduce_buffer(nb::handle x, const std::string& op) {
    const BufferView buffer(x.ptr());
    const std::optional<base::DType> type = buffer.dtype();
    if (!type) return false;
    const auto how = op_of(op);
    collective(collectives_, [&](group::Group& group) {
      return collectives::all_reduce(group, buffer.bytes(), *type, how);
    });
    return true;
  }
  nb::object allocate(std::size_t size) {
    auto memory = call([&]() -> base::Result<std::unique_ptr<collectives::SharedBuffer>> {
      const std::lock_guard<std::mutex> lock(collectives_);
      auto made = collectives::allocate(session_->workers(), size);
      if (!made) return session_->explain(made.error());
      return made;
    });
    collectives::SharedBuffer* const raw = memory.get();
    const nb::capsule owner(memory.release(), [](void* p) noexcept {
      delete static_cast<collectives::SharedBuffer*>(p);
    });
    return nb::cast(
        nb::ndarray<nb::numpy, std::uint8_t, nb::ndim<1>>(raw->view().data(), {size}, owner));
  }
  /// `background`: other threads of this process compute meanwhile.
  void all_reduce(std::uintptr_t data, std::size_t size, const std::string& dtype,
                  const std::string& op, Seconds timeout, bool background) {
    const auto type = dtype_of(dtype);
    const auto how = op_of(op);
    collectives::Options chosen = options("", timeout);
    chosen.background = background;
    collective(collectives_, [&](group::Group& group) {
      return collectives::all_reduce(group, memory(data, size), type, how, chosen);
    });
  }
  void broadcast(std::uintptr_t data, std::size_t size, int root, Seconds timeout) {
    collective(collectives_, [&](group::Group& group) {
      return collectives::broadcast(group, memory(data, size), base::Rank(root),
                                    options("broadcast", timeout));
    });
  }
  void all_gather(std::uintptr_t data, std::size_t size, Seconds timeout, const char* label) {
    collective(collectives_, [&](group::Group& group) {
      const auto how = options(label, timeout);
      return collectives::all_gather(group, memory(data, size), base::DType::kU8, how);
    });
  }
  void reduce_scatter(std::uintptr_t data, std::size_t size, std::uintptr_t out,
                      std::size_t out_size, const std::string& dtype, const std::string& op,
                      Seconds timeout) {
    const auto type = dtype_of(dtype);
    const auto how = op_of(op);
    collective(collectives_, [&](group::Group& group) {
      return collectives::reduce_scatter(group, memory(data, size), memory(out, out_size), type,
                                         how, options("reduce_scatter", timeout));
    });
  }
  void all_to_all(std::uintptr_t in, std::uintptr_t out, std::size_t size, Seconds timeout) {
    collective(collectives_, [&](group::Group& group) {
      return collectives::all_to_all(group, memory(in, size), memory(out, size),
                                     options("all_to_all", timeout));
    });
  }
  void all_to_all_v(std::uintptr_t in, const std::vector<std::size_t>& in_sizes, std::uintptr_t out,
                    const std::vector<std::size_t>& out_sizes, Seconds timeout) {
    const auto sum = [](const auto& sizes) {
      return std::accumulate(sizes.begin(), sizes.end(), std::size_t{0});
    };
    collective(collectives_, [&](group::Group& group) {
      return collectives::all_to_all_v(group, memory(in, sum(in_sizes)), in_sizes,
                                       memory(out, sum(out_sizes)), out_sizes,
                                       options("all_to_all_v", timeout));
    });
  }
  /// `out` on the root takes `size` bytes of each rank; ignored elsewhere.
  void gather(std::uintptr_t data, std::size_t size, std::uintptr_t out, int root,
              Seconds timeout) {
    collective(collectives_, [&](group::Group& group) {
      return collectives::gather(group, memory(data, size), memory(out, size * count(group)),
                                 base::Rank(root), options("gather", timeout));
    });
  }
  void scatter(std::uintptr_t in, std::uintptr_t data, std::size_t size, int root,
               Seconds timeout) {
    collective(collectives_, [&](group::Group& group) {
      return collectives::scatter(group, memory(in, size * count(group)), memory(data, size),
                                  base::Rank(root), options("scatter", timeout));
    });
  }
  /// For each worker: the transport of the link to it ("" to itself), its host's number, and the
  /// α–β model between the two hosts, measured or assumed.
  nb::list links() const {
    const group::Group& workers = session_->workers();
    const auto& topology = workers.topology();
    nb::list found;
    for (int r = 0; r < workers.size(); ++r) {
      const auto& link = workers.links()[static_cast<std::size_t>(r)];
      const int host = topology ? topology->host_of(r) : 0;
      const group::LinkSpeed speed =
          topology ? topology->between(topology->host_of(workers.rank().value), host)
                   : group::LinkSpeed{};
      found.append(nb::make_tuple(link ? link->capabilities().transport : "", host, speed.latency,
                                  1.0 / speed.seconds_per_byte));
    }
    return found;
  }
  bool links_measured() const {
    const auto& topology = session_->workers().topology();
    return topology && topology->speeds().measured;
  }
  void barrier(Seconds timeout) {
    collective(collectives_, [&](group::Group& group) {
      return collectives::barrier(group, options("", timeout));
    });
  }
  void send(std::uintptr_t data, std::size_t size, int to, Seconds timeout) {
    collective(sending_.at(static_cast<std::size_t>(to)), [&](group::Group& group) {
      return collectives::send(group, memory(data, size), base::Rank(to), options("send", timeout));
    });
  }
  void recv(std::uintptr_t data, std::size_t size, int from, Seconds timeout) {
    collective(receiving_.at(static_cast<std::size_t>(from)), [&](group::Group& group) {
      return collectives::recv(group, memory(data, size), base::Rank(from),
                               options("recv", timeout));
    });
  }
  void expect(int source, std::size_t size) {
    GilReleased released;
    arrivals().expect(base::Rank(source), size);
  }
  /// None at the end of the time, or when it was woken. A thread that may stay here for ever: no
  /// Ctrl-C is meant for it.
  std::optional<int> next_arrival(Seconds timeout) {
    GilReleased released;
    const auto& scheduler = session_->workers().scheduler();
    const auto rank = arrivals().next(timeout ? scheduler.after(base::from_seconds(*timeout))
                                              : base::TimePoint::never());
    return rank ? std::optional(rank->value) : std::nullopt;
  }
  nb::bytes take(int source) {
    const auto message = call([&]() -> base::Result<std::vector<std::byte>> {
      auto taken = arrivals().take(base::Rank(source));
      if (!taken) return session_->explain(taken.error());
      return taken;
    });
    return nb::bytes(message.data(), message.size());
  }
  void wake() { arrivals().wake(); }
  void time_out(int source, const std::string& message) {
    call([&]() -> base::Status {
      return session_->explain(Error(ErrorCode::kTimeout, message, source));
    });
  }

 private:
  collectives::Arrivals& arrivals() {
    std::call_once(arrivals_made_, [this] {
      arrivals_ = std::make_unique<collectives::Arrivals>(session_->workers());
    });
    return *arrivals_;
  }
  static collectives::Options options(const char* name, Seconds timeout) {
    collectives::Options options;
    options.label = name;
    if (timeout) {
      options.timeout = std::min<base::Duration>(base::from_seconds(*timeout),
                                                 runtime::SessionOptions::kLongestTimeout);
    }
    return options;
  }
  static std::size_t count(const group::Group& group) {
    return static_cast<std::size_t>(group.size());
  }

  std::shared_ptr<runtime::Session> session_;
  std::once_flag arrivals_made_;
  std::unique_ptr<collectives::Arrivals> arrivals_;  ///< of messages, when they are asked for
  std::mutex collectives_;
  std::vector<std::mutex> sending_, receiving_;  ///< by peer
  const pid_t process_;                          ///< that made it
};

std::unique_ptr<PythonSession> open_session(int rank, int world_size, int servers, int nnodes,
                                            std::string rdzv, std::string token,
                                            std::optional<double> timeout, std::string interface,
                                            std::vector<std::string> transports, bool rdzv_moves,
                                            std::optional<nb::callable> go_on) {
  runtime::SessionOptions options;
  options.rank = rank;
  options.world_size = world_size;
  options.servers = servers;
  options.nnodes = nnodes;
  options.rdzv = std::move(rdzv);
  options.token = std::move(token);
  if (timeout) options.timeout = base::from_seconds(*timeout);
  options.interface = std::move(interface);
  options.transports = std::move(transports);
  options.measure = unwrap(runtime::SessionOptions::measure_from_environment());
  options.congestion_control = runtime::SessionOptions::congestion_control_from_environment();
  // Nobody asks once the session is open.
  options.interrupted = [go_on = nb::handle(go_on ? go_on->ptr() : nullptr),
                         opener = std::this_thread::get_id()] {
    const GilHeld held;
    // What the first to ask has raised stays; threads that are not Python's main one see nothing.
    if (PyErr_Occurred() != nullptr || PyErr_CheckSignals() != 0) return true;
    if (!go_on.is_valid() || std::this_thread::get_id() != opener) return false;
    try {
      go_on();
      return false;
    } catch (nb::python_error& error) {
      error.restore();
      return true;
    }
  };
  if (rdzv_moves) {
    options.rdzv_now = [] {
      const GilHeld held;
      return nb::cast<std::string>(nb::module_::import_("gearshift._session").attr("rdzv_now")());
    };
  }
  std::unique_ptr<runtime::Session> session =
      call([&] { return runtime::Session::create(options); });
  return std::make_unique<PythonSession>(std::move(session));
}

nb::object distribute_on(
    const PythonSession& s, std::vector<DistributeRequest::Parameter> parameters,
    const strategy::Strategy& strategy,
    std::optional<std::tuple<std::string, std::vector<std::string>, std::uint32_t>> optimizer,
    nb::object bridge, std::size_t buffer_bytes, std::string fingerprint) {
  DistributeRequest request;
  request.parameters = std::move(parameters);
  request.strategy = strategy;
  request.optimizer = std::move(optimizer);
  request.bridge = std::move(bridge);
  request.buffer_bytes = buffer_bytes;
  request.fingerprint = std::move(fingerprint);
  return distribute(s.shared(), std::move(request));
}

/// Whether another rank is in the operation that this one is in, as far as is known.
bool others_take_part(const PythonSession& s) {
  const membership::Monitor* const monitor = s.core().monitor();
  if (monitor == nullptr) return false;
  const auto report = monitor->report();
  const auto own = static_cast<std::size_t>(s.core().rank().value);
  const std::string& operation = report[own].operation;
  return operation.rfind("idle", 0) != 0 &&
         std::any_of(report.begin(), report.end(), [&](const membership::PeerReport& one) {
           return one.rank != report[own].rank && one.alive && one.operation == operation;
         });
}

/// Whether this rank has said good-bye, as far as is known.
bool has_left(const PythonSession& s, int rank) {
  const membership::Monitor* const monitor = s.core().monitor();
  return monitor != nullptr && monitor->report().at(static_cast<std::size_t>(rank)).left;
}

void bind_life(nb::class_<PythonSession>& c) {
  using S = PythonSession;
  c.def(nb::new_(&open_session), nb::kw_only(), nb::arg("rank"), nb::arg("world_size"),
        nb::arg("servers"), nb::arg("nnodes"), nb::arg("rdzv"), nb::arg("token"),
        nb::arg("timeout").none(), nb::arg("interface"), nb::arg("transports"),
        nb::arg("rdzv_moves") = false, nb::arg("go_on").none() = nb::none())
      .def_prop_ro("rank", [](const S& s) { return s.core().rank().value; })
      .def_prop_ro("world_size", [](const S& s) { return s.core().world_size(); })
      .def_prop_ro("servers", [](const S& s) { return s.core().servers(); })
      .def_prop_ro("is_server", [](const S& s) { return s.core().is_server(); })
      .def(
          "explain_all_reduce",
          [](const S& s, std::size_t bytes) {
            return collectives::explain_all_reduce(s.core().workers(), bytes);
          },
          nb::arg("bytes"))
      .def_prop_ro("timeout", [](const S& s) { return base::to_seconds(s.core().timeout()); })
      .def("serve", [](const S& s) { call([&] { return s.core().serve(); }); })
      .def("close", [](const S& s) { call([&] { return s.core().close(); }); })
      .def(
          "fail",
          [](const S& s, const std::string& message) {
            GilReleased released;
            s.core().fail(Error(ErrorCode::kAborted, message));
          },
          nb::arg("message"))
      .def("hang_report",
           [](const S& s) {
             GilReleased released;
             return s.core().hang_report();
           })
      .def("check",
           [](const S& s) {
             const membership::Monitor* const monitor = s.core().monitor();
             if (const auto failure = monitor ? monitor->failure() : std::nullopt) raise(*failure);
           })
      .def("others_take_part", &others_take_part)
      .def("has_left", &has_left, nb::arg("rank"))
      .def("watch_signals", [](const S& s) { watch_signals(s.shared()); })
      .def("unwatch_signals", [](const S& s) { unwatch_signals(&s.core()); })
      .def("traffic", [](const S& s) {
        const transport::Traffic traffic = s.core().traffic();
        return nb::make_tuple(traffic.bytes_sent, traffic.bytes_received);
      });
}

void bind_collectives(nb::class_<PythonSession>& c) {
  using S = PythonSession;
  const auto timeout = nb::arg("timeout").none() = nb::none();
  c.def("all_reduce", &S::all_reduce, nb::arg("data"), nb::arg("size"), nb::arg("dtype"),
        nb::arg("op"), timeout, nb::arg("background") = false)
      .def("broadcast", &S::broadcast, nb::arg("data"), nb::arg("size"), nb::arg("root"), timeout)
      .def("all_gather", &S::all_gather, nb::arg("data"), nb::arg("size"), timeout,
           nb::arg("label") = "all_gather")
      .def("reduce_scatter", &S::reduce_scatter, nb::arg("data"), nb::arg("size"), nb::arg("out"),
           nb::arg("out_size"), nb::arg("dtype"), nb::arg("op"), timeout)
      .def("all_to_all", &S::all_to_all, nb::arg("data"), nb::arg("out"), nb::arg("size"), timeout)
      .def("all_to_all_v", &S::all_to_all_v, nb::arg("data"), nb::arg("sizes"), nb::arg("out"),
           nb::arg("out_sizes"), timeout)
      .def("gather", &S::gather, nb::arg("data"), nb::arg("size"), nb::arg("out"), nb::arg("root"),
           timeout)
      .def("scatter", &S::scatter, nb::arg("data"), nb::arg("out"), nb::arg("size"),
           nb::arg("root"), timeout)
      .def("barrier", &S::barrier, timeout)
      .def("send", &S::send, nb::arg("data"), nb::arg("size"), nb::arg("to"), timeout)
      .def("recv", &S::recv, nb::arg("data"), nb::arg("size"), nb::arg("source"), timeout);
}

void bind_arrivals(nb::class_<PythonSession>& c) {
  using S = PythonSession;
  c.def("expect", &S::expect, nb::arg("source"), nb::arg("size"))
      .def("next_arrival", &S::next_arrival, nb::arg("timeout").none() = nb::none())
      .def("take", &S::take, nb::arg("source"))
      .def("wake", &S::wake)
      .def("time_out", &S::time_out, nb::arg("source"), nb::arg("message"))
      .def(
          "begin_operation",
          [](const S& s, std::string operation) {
            return s.core().workers().progress().begin(std::move(operation));
          },
          nb::arg("operation"))
      .def(
          "end_operation",
          [](const S& s, std::uint64_t ticket) { s.core().workers().progress().end(ticket); },
          nb::arg("ticket"));
}

}  // namespace

void bind_session(nb::module_& m) {
  using S = PythonSession;
  m.def("leave_everything", &leave_everything);
  nb::class_<S> session(m, "Session");
  bind_life(session);
  session
      .def("distribute", &distribute_on, nb::kw_only(), nb::arg("parameters"), nb::arg("strategy"),
           nb::arg("optimizer").none(), nb::arg("bridge").none(), nb::arg("buffer_bytes"),
           nb::arg("fingerprint"))
      .def("all_reduce_buffer", &S::all_reduce_buffer, nb::arg("x"), nb::arg("op"))
      .def("allocate", &S::allocate, nb::arg("size"))
      .def("links", &S::links)
      .def_prop_ro("links_measured", &S::links_measured);
  bind_collectives(session);
  bind_arrivals(session);
}

}  // namespace gearshift::python
