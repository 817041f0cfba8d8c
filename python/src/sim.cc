#include <nanobind/ndarray.h>
#include <nanobind/stl/function.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "calls.h"
#include "gearshift/sim/simulate.h"
#include "paced.h"

namespace gearshift::python {
namespace {

/// A Python object with check(parameters), begin(rank, parameters, gradients), gradient(rank,
/// step), which returns the fields of a LearnerStep, and evaluate(). The simulation runs in the
/// thread that holds the GIL, on stacks of its own: calls return before another task runs.
class PythonLearner final : public sim::Learner {
 public:
  explicit PythonLearner(nb::object object) : object_(std::move(object)) {}

  base::Status check(const sim::Workload& workload) override {
    return told([&] {
      nb::list parameters;
      for (const sim::WorkloadParameter& p : workload.parameters) {
        parameters.append(nb::make_tuple(p.name, p.shape, std::string(base::to_string(p.dtype))));
      }
      object_.attr("check")(parameters);
    });
  }
  base::Status begin(int rank, strategy::Replica& replica) override {
    return told([&] {
      nb::list parameters, gradients;
      for (std::uint32_t p = 0; p < replica.plan().parameters.size(); ++p) {
        parameters.append(array(replica.parameter(p)));
        gradients.append(array(replica.gradient(p)));
      }
      object_.attr("begin")(rank, parameters, gradients);
    });
  }
  base::Result<sim::LearnerStep> gradient(int rank, std::int64_t step,
                                          strategy::Replica&) override {
    return asked([&] {
      auto [loss, present, hypers] = nb::cast<std::tuple<double, nb::bytes, ps::HyperValues>>(
          object_.attr("gradient")(rank, step));
      return sim::LearnerStep{loss, flags_of(present), std::move(hypers)};
    });
  }
  base::Result<double> evaluate(strategy::Replica&) override {
    return asked([&] { return nb::cast<double>(object_.attr("evaluate")()); });
  }

 private:
  using Array = nb::ndarray<nb::numpy, std::uint8_t, nb::ndim<1>>;

  /// The replica's own memory, which outlives the training.
  static nb::object array(base::Bytes memory) {
    return nb::cast(Array(memory.data(), {memory.size()}, nb::handle()), nb::rv_policy::reference);
  }
  template <typename F>
  static base::Result<std::invoke_result_t<F>> asked(F f) {
    try {
      return f();
    } catch (nb::python_error& e) {
      return base::Error(base::ErrorCode::kInvalidArgument, text_of(e));
    } catch (const nb::cast_error&) {
      return base::Error(base::ErrorCode::kInvalidArgument,
                         "the learner returned something of another type");
    }
  }
  template <typename F>
  static base::Status told(F f) {
    const base::Result<bool> done = asked([&] {
      f();
      return true;
    });
    return done ? base::Status() : base::Status(done.error());
  }
  static std::string text_of(nb::python_error& e) {
    return "the training raised an exception:\n" + std::string(e.what());
  }

  const nb::object object_;
};

}  // namespace

nb::dict worker_dict(const sim::WorkerResult& worker) {
  nb::list begin, computed, end;
  for (const sim::StepTimes& step : worker.steps) {
    begin.append(step.begin);
    computed.append(step.computed);
    end.append(step.end);
  }
  nb::dict result;
  result["rank"] = worker.rank;
  result["host"] = worker.host;
  result["begin"] = begin;
  result["computed"] = computed;
  result["end"] = end;
  result["staleness"] = worker.staleness;
  result["first_begins"] = worker.first_begins;
  result["exposed_seconds"] = worker.exposed_seconds;
  result["communication_seconds"] = worker.communication_seconds;
  result["bytes_sent"] = worker.bytes_sent;
  result["messages_sent"] = worker.messages_sent;
  return result;
}

nb::list span_list(const std::vector<sim::Span>& timeline) {
  nb::list spans;
  for (const sim::Span& span : timeline) {
    spans.append(nb::make_tuple(span.rank, span.track, span.name, span.begin, span.end));
  }
  return spans;
}

namespace {

nb::dict to_dict(const strategy::SwitchRecord& record) {
  nb::dict result;
  result["step"] = record.step;
  result["from"] = record.from;
  result["to"] = record.to;
  result["policy"] = record.policy;
  result["inputs"] = record.inputs;
  result["seconds"] = record.seconds;
  result["bytes_moved"] = record.bytes_moved;
  return result;
}

nb::dict to_dict(const sim::LinkUse& link) {
  nb::dict result;
  result["name"] = link.name;
  result["bandwidth"] = link.bandwidth;
  result["bytes"] = link.bytes;
  return result;
}

nb::object to_object(const std::optional<sim::SkippedSteps>& skipped) {
  if (!skipped) return nb::none();
  nb::dict result;
  result["first"] = skipped->first;
  result["last"] = skipped->last;
  result["period"] = skipped->period;
  result["estimated"] = skipped->estimated;
  result["half_width"] = skipped->half_width;
  return result;
}

base::Result<sim::Sharing> sharing_of(const std::string& name) {
  static const std::map<std::string, sim::Sharing> kNames = {{"auto", sim::Sharing::kAuto},
                                                             {"max_min", sim::Sharing::kMaxMin},
                                                             {"per_link", sim::Sharing::kPerLink},
                                                             {"none", sim::Sharing::kNone}};
  const auto found = kNames.find(name);
  if (found != kNames.end()) return found->second;
  return base::Error(base::ErrorCode::kInvalidArgument, "no such sharing: " + name);
}

nb::dict to_dict(const sim::SimulationResult& r) {
  nb::list workers, links, switches, curve;
  for (const auto& worker : r.workers) workers.append(worker_dict(worker));
  for (const auto& link : r.links) links.append(to_dict(link));
  for (const auto& record : r.switches) switches.append(to_dict(record));
  for (const sim::CurvePoint& point : r.curve) {
    curve.append(nb::make_tuple(point.seconds, point.step, point.loss, point.metric));
  }
  nb::dict result;
  result["virtual_seconds"] = r.virtual_seconds;
  result["wall_seconds"] = r.wall_seconds;
  result["messages"] = r.messages;
  result["workers"] = workers;
  result["links"] = links;
  result["switches"] = switches;
  // A training that diverged is told apart: worker and reason.
  const bool diverged = r.failure && r.failure->code == base::ErrorCode::kDiverged;
  result["failure"] = r.failure && !diverged ? nb::cast(r.failure->message) : nb::none();
  result["diverged"] =
      diverged ? nb::object(nb::make_tuple(r.failure->culprit, r.failure->message)) : nb::none();
  result["restarts"] = r.restarts;
  result["repeated_steps"] = r.repeated_steps;
  result["simulated_steps"] = r.simulated_steps;
  result["skipped"] = to_object(r.skipped);
  result["curve"] = curve;
  result["timeline"] = span_list(r.timeline);
  return result;
}

nb::dict simulate(const std::string& cluster_text, const std::string& cluster_name,
                  const std::string& workload_text, const std::string& workload_name,
                  const strategy::Strategy& strategy, const std::string& optimizer,
                  const std::vector<std::string>& hyper_names, const std::vector<double>& hypers,
                  std::uint32_t groups, const std::vector<std::uint32_t>& param_groups, int steps,
                  std::uint64_t seed, bool timeline, double timeout, const nb::object& learner,
                  int evaluate_every, int steps_per_epoch, double detection, int checkpoint_every,
                  const std::string& sharing, bool every_step, double steady_tolerance,
                  std::function<void(int)> on_step) {
  sim::SimulationOptions options;
  options.cluster = unwrap(sim::parse_cluster(cluster_text, cluster_name));
  options.workload = unwrap(sim::parse_workload(workload_text, workload_name));
  options.strategy = strategy;
  options.optimizer = {optimizer, hyper_names, groups};
  options.param_groups = param_groups;
  options.hypers = hypers;
  options.steps = steps;
  options.seed = seed;
  options.timeline = timeline;
  options.timeout = base::from_seconds(timeout);
  if (!learner.is_none()) options.learner = std::make_shared<PythonLearner>(learner);
  options.evaluate_every = evaluate_every;
  options.steps_per_epoch = steps_per_epoch;
  options.detection = base::from_seconds(detection);
  options.checkpoint_every = checkpoint_every;
  options.sharing = unwrap(sharing_of(sharing));
  options.every_step = every_step;
  options.steady_tolerance = steady_tolerance;
  options.on_step = std::move(on_step);
  // The simulation runs in this thread, which keeps the GIL: nothing else waits for it.
  return to_dict(unwrap(sim::simulate(options)));
}

nb::dict describe_cluster(const std::string& text, const std::string& name) {
  const sim::Cluster cluster = unwrap(sim::parse_cluster(text, name));
  nb::list hosts;
  for (const sim::Host& host : cluster.hosts) {
    nb::dict entry;
    entry["name"] = host.name;
    entry["zone"] = host.zone;
    entry["workers"] = host.workers;
    entry["servers"] = host.servers;
    entry["speed"] = host.speed;
    entry["bandwidth"] = host.bandwidth;
    entry["latency"] = host.latency;
    hosts.append(entry);
  }
  nb::dict result;
  result["name"] = cluster.name;
  result["workers"] = cluster.workers();
  result["servers"] = cluster.servers();
  result["hosts"] = hosts;
  return result;
}

void check_workload(const std::string& text, const std::string& name) {
  unwrap(sim::parse_workload(text, name));
}

}  // namespace

NB_MODULE(_sim, m) {
  check_interface(m);
  m.doc() = "The simulator of gearshift; use gearshift.sim instead.";
  nb::module_::import_("gearshift._core");  // knows strategies
  bind_errors(m);
  m.def("simulate", &simulate, nb::kw_only(), nb::arg("cluster_text"), nb::arg("cluster_name"),
        nb::arg("workload_text"), nb::arg("workload_name"), nb::arg("strategy"),
        nb::arg("optimizer") = "sgd",
        nb::arg("hyper_names") = std::vector<std::string>{"lr", "momentum"},
        nb::arg("hypers") = std::vector<double>{0.1, 0.9}, nb::arg("groups") = 1,
        nb::arg("param_groups") = std::vector<std::uint32_t>(), nb::arg("steps") = 20,
        nb::arg("seed") = 1, nb::arg("timeline") = false, nb::arg("timeout") = 24 * 365 * 3600.0,
        nb::arg("learner").none() = nb::none(), nb::arg("evaluate_every") = 100,
        nb::arg("steps_per_epoch") = 0, nb::arg("detection") = 30.0,
        nb::arg("checkpoint_every") = 0, nb::arg("sharing") = "auto", nb::arg("every_step") = false,
        nb::arg("steady_tolerance") = sim::SimulationOptions{}.steady_tolerance,
        nb::arg("on_step").none() = nb::none());
  bind_paced(m);
  m.def("describe_cluster", &describe_cluster, nb::arg("text"), nb::arg("name"));
  m.def("check_workload", &check_workload, nb::arg("text"), nb::arg("name"));
}

}  // namespace gearshift::python
