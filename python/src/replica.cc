#include "replica.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>
#include <unistd.h>

#include <atomic>

#include "calls.h"
#include "state.h"

namespace gearshift::python {
namespace {

std::atomic<bool> leaving{false};

/// What gearshift.torch holds of a replica. See strategy/replica.h for the methods.
class PythonReplica {
 public:
  explicit PythonReplica(std::shared_ptr<ReplicaState> state) : state_(std::move(state)) {}
  ~PythonReplica() { drop(std::move(state_)); }
  PythonReplica(const PythonReplica&) = delete;
  PythonReplica& operator=(const PythonReplica&) = delete;

  strategy::Replica& core() const { return *state_->replica; }

  ByteArray memory(base::Bytes bytes) const {
    auto kept = std::make_unique<std::shared_ptr<ReplicaState>>(state_);
    const nb::capsule owner(kept.release(), [](void* p) noexcept {
      const std::unique_ptr<std::shared_ptr<ReplicaState>> held(
          static_cast<std::shared_ptr<ReplicaState>*>(p));
      drop(std::move(*held));
    });
    return byte_array(bytes, owner);
  }

  nb::bytes backward_end(const nb::bytes& present, bool settled) const {
    const std::vector<bool> flags = flags_of(present);
    const std::vector<bool> result = call([&] { return core().backward_end(flags, settled); });
    std::string out(result.size(), '\0');
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = result[i] ? '\1' : '\0';
    return nb::bytes(out.data(), out.size());
  }

  strategy::StepReport step(double loss, std::int64_t epoch, std::vector<double> hypers,
                            double gradient_factor, bool skip, double clip_norm) const {
    strategy::StepInput input;
    input.loss = loss;
    input.epoch = epoch;
    input.hypers = std::move(hypers);
    input.gradient_factor = gradient_factor;
    input.skip = skip;
    input.clip_norm = clip_norm;
    auto report = call([&] { return core().step(input); });
    for (const auto& policy : state_->policies) {
      if (policy->error()) raise(*policy->error());
    }
    return report;
  }

  void finish() const {
    call([&] { return core().finish(); });
  }
  void stop() const {
    call([&] { return core().stop(); });
  }
  /// The callables of the bridge refer to the optimizer, which may refer back.
  void forget_bridge() const { state_->bridge.forget(); }

 private:
  /// Needs the GIL; gives it away, since ending a server waits for tasks that may want it.
  static void drop(std::shared_ptr<ReplicaState> state) {
    // Nor in a forked child, which has none of the threads that would have to end; the collector
    // may come here before anybody has noticed the fork.
    if (leaving.load() || getpid() != state->process) {
      new std::shared_ptr<ReplicaState>(std::move(state));
      return;
    }
    if (state.use_count() > 1) return;
    state->bridge.forget();
    GilReleased released;
    state.reset();
  }

  std::shared_ptr<ReplicaState> state_;
};

void bind_reports(nb::module_& m) {
  using Record = strategy::SwitchRecord;
  nb::class_<Record>(m, "SwitchRecord")
      .def_ro("step", &Record::step)
      .def_ro("before", &Record::from)
      .def_ro("after", &Record::to)
      .def_ro("policy", &Record::policy)
      .def_ro("inputs", &Record::inputs)
      .def_ro("seconds", &Record::seconds)
      .def_ro("bytes_moved", &Record::bytes_moved)
      .def_ro("parameter_hash", &Record::parameter_hash);
  nb::class_<strategy::StepReport>(m, "StepReport")
      .def_ro("step", &strategy::StepReport::step)
      .def_ro("seen", &strategy::StepReport::seen)
      .def_ro("seen_of_others", &strategy::StepReport::seen_of_others)
      .def_ro("alike", &strategy::StepReport::alike)
      .def_ro("skipped", &strategy::StepReport::skipped)
      .def_ro("averaged", &strategy::StepReport::averaged)
      .def_ro("switched", &strategy::StepReport::switched);
  using Stats = strategy::Stats;
  nb::class_<Stats>(m, "Stats")
      .def_ro("strategy", &Stats::strategy)
      .def_ro("step", &Stats::step)
      .def_ro("loss", &Stats::loss)
      .def_ro("bytes_sent", &Stats::bytes_sent)
      .def_ro("bytes_received", &Stats::bytes_received)
      .def_ro("mean_staleness", &Stats::mean_staleness)
      .def_ro("max_staleness", &Stats::max_staleness)
      .def_ro("pushes", &Stats::pushes)
      .def_ro("max_lead", &Stats::max_lead)
      .def_ro("shard_applies", &Stats::shard_applies)
      .def_ro("exposed_seconds", &Stats::exposed_seconds)
      .def_ro("communication_seconds", &Stats::communication_seconds)
      .def_ro("switches", &Stats::switches);
}

std::vector<strategy::ParameterSpec> parameter_specs(
    const std::vector<DistributeRequest::Parameter>& parameters) {
  std::vector<strategy::ParameterSpec> specs;
  for (const auto& [name, shape, dtype, group] : parameters) {
    const auto found = base::dtype_from_string(dtype);
    if (!found) {
      raise(base::Error(base::ErrorCode::kUnsupported,
                        "parameter '" + name + "' is " + dtype + ", which cannot be distributed"));
    }
    specs.push_back({name, shape, *found, group});
  }
  return specs;
}

std::vector<std::shared_ptr<PythonPolicy>> policies_of(const strategy::Strategy& strategy) {
  std::vector<std::shared_ptr<PythonPolicy>> policies;
  if (const auto* s = std::get_if<strategy::StrategySwitch>(&strategy.kind)) {
    for (const auto& policy : {s->policy, s->back}) {
      if (auto ours = std::dynamic_pointer_cast<PythonPolicy>(policy)) policies.push_back(ours);
    }
  }
  return policies;
}

}  // namespace

void leave_everything() { leaving.store(true); }

base::Result<std::vector<ps::StateEntry>> PythonBridge::export_state() {
  GilHeld held;
  try {
    return state_from_python(own_.attr("export_state")());
  } catch (nb::python_error& e) {
    return error_of(e, "optimizer state");
  }
}

base::Status PythonBridge::import_state(std::vector<ps::StateEntry> state) {
  GilHeld held;
  try {
    own_.attr("import_state")(to_python(std::move(state)));
    return {};
  } catch (nb::python_error& e) {
    return error_of(e, "optimizer state");
  }
}

base::Result<std::vector<std::byte>> PythonBridge::export_scales(bool skipped) {
  GilHeld held;
  try {
    const auto scales = nb::cast<nb::bytes>(own_.attr("export_scales")(skipped));
    const auto* begin = reinterpret_cast<const std::byte*>(scales.c_str());
    return std::vector<std::byte>(begin, begin + scales.size());
  } catch (nb::python_error& e) {
    return error_of(e, "scales of losses");
  }
}

base::Status PythonBridge::import_scales(base::ConstBytes scales) {
  GilHeld held;
  try {
    own_.attr("import_scales")(
        nb::bytes(reinterpret_cast<const char*>(scales.data()), scales.size()));
    return {};
  } catch (nb::python_error& e) {
    return error_of(e, "scales of losses");
  }
}

void PythonBridge::forget() { own_.reset(); }

nb::object distribute(std::shared_ptr<runtime::Session> session, DistributeRequest request) {
  const bool has_bridge = !request.bridge.is_none();
  auto state = std::make_shared<ReplicaState>(
      ReplicaState{std::move(session), policies_of(request.strategy),
                   PythonBridge(std::move(request.bridge)), nullptr, getpid()});
  strategy::ReplicaOptions options;
  options.parameters = parameter_specs(request.parameters);
  options.strategy = std::move(request.strategy);
  if (request.optimizer) {
    auto& [kind, names, groups] = *request.optimizer;
    options.optimizer = ps::OptimizerSpec{kind, names, groups};
  }
  if (has_bridge) options.bridge = &state->bridge;
  options.buffer_bytes = request.buffer_bytes;
  options.fingerprint = std::move(request.fingerprint);
  state->replica = call([&] { return state->session->distribute(std::move(options)); });
  return nb::cast(std::make_unique<PythonReplica>(std::move(state)));
}

namespace {

/// What optimizers know.
void bind_state(nb::class_<PythonReplica>& replica) {
  using R = PythonReplica;
  replica
      .def("fetch_state",
           [](const R& r) {
             return python::to_python(call([&] { return r.core().fetch_state(); }));
           })
      .def(
          "store_state",
          [](const R& r, nb::handle state) {
            const auto entries = state_from_python(state);
            call([&] { return r.core().store_state(entries); });
          },
          nb::arg("state"))
      .def("fetch_outer_state",
           [](const R& r) {
             return python::to_python(call([&] { return r.core().fetch_outer_state(); }));
           })
      .def(
          "store_outer_state",
          [](const R& r, nb::handle state) {
            const auto entries = state_from_python(state);
            call([&] { return r.core().store_outer_state(entries); });
          },
          nb::arg("state"));
}

}  // namespace

void bind_replica(nb::module_& m) {
  bind_reports(m);
  using R = PythonReplica;
  nb::class_<R> replica(m, "Replica");
  bind_state(replica);
  replica.def_prop_ro("uses_server", [](const R& r) { return r.core().uses_server(); })
      .def_prop_ro("is_local", [](const R& r) { return r.core().is_local(); })
      .def_prop_ro("averages_next", [](const R& r) { return r.core().averages_next(); })
      .def_prop_ro("has_outer_optimizer", [](const R& r) { return r.core().has_outer_optimizer(); })
      .def("parameter", [](const R& r, std::uint32_t i) { return r.memory(r.core().parameter(i)); })
      .def("gradient", [](const R& r, std::uint32_t i) { return r.memory(r.core().gradient(i)); })
      .def("buffers", [](const R& r) { return r.memory(r.core().buffers()); })
      .def("start", [](const R& r) { call([&] { return r.core().start(); }); })
      .def(
          "backward_begin",
          [](const R& r, double samples) { unwrap(r.core().backward_begin(samples)); },
          nb::arg("samples"))
      .def("ready", [](const R& r, std::uint32_t i) { unwrap(r.core().ready(i)); })
      .def("backward_end", &R::backward_end, nb::arg("present"), nb::arg("settled") = false)
      .def("step", &R::step, nb::arg("loss"), nb::arg("epoch"),
           nb::arg("hypers") = std::vector<double>(), nb::arg("gradient_factor") = 1.0,
           nb::arg("skip") = false, nb::arg("clip_norm") = 0.0)
      .def(
          "join",
          [](const R& r, const nb::callable& before) {
            const auto report = call([&] {
              return r.core().join([&before] {
                GilHeld held;
                before();
              });
            });
            return nb::make_tuple(report.root.value, report.steps_differ);
          },
          nb::arg("before"))
      .def("parameters_written",
           [](const R& r) {
             GilReleased released;
             return r.core().parameters_written();
           })
      .def("store_parameters",
           [](const R& r) { call([&] { return r.core().store_parameters(); }); })
      .def("stats",
           [](const R& r) {
             GilReleased released;
             return r.core().stats();
           })
      .def("finish", &R::finish)
      .def("stop", &R::stop)
      .def("forget_bridge", &R::forget_bridge);
}

}  // namespace gearshift::python
