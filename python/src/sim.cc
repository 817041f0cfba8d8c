#include <nanobind/stl/function.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "calls.h"
#include "gearshift/sim/simulate.h"

namespace gearshift::python {
namespace {

nb::dict to_dict(const sim::WorkerResult& worker) {
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
  result["exposed_seconds"] = worker.exposed_seconds;
  result["communication_seconds"] = worker.communication_seconds;
  result["bytes_sent"] = worker.bytes_sent;
  result["messages_sent"] = worker.messages_sent;
  return result;
}

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

nb::dict to_dict(const sim::SimulationResult& r) {
  nb::list workers, links, switches, timeline;
  for (const auto& worker : r.workers) workers.append(to_dict(worker));
  for (const auto& link : r.links) links.append(to_dict(link));
  for (const auto& record : r.switches) switches.append(to_dict(record));
  for (const sim::Span& span : r.timeline) {
    timeline.append(nb::make_tuple(span.rank, span.track, span.name, span.begin, span.end));
  }
  nb::dict result;
  result["virtual_seconds"] = r.virtual_seconds;
  result["wall_seconds"] = r.wall_seconds;
  result["messages"] = r.messages;
  result["workers"] = workers;
  result["links"] = links;
  result["switches"] = switches;
  result["timeline"] = timeline;
  return result;
}

nb::dict simulate(const std::string& cluster_text, const std::string& cluster_name,
                  const std::string& workload_text, const std::string& workload_name,
                  const strategy::Strategy& strategy, const std::string& optimizer, int steps,
                  std::uint64_t seed, bool timeline, double timeout,
                  std::function<void(int)> on_step) {
  sim::SimulationOptions options;
  options.cluster = unwrap(sim::parse_cluster(cluster_text, cluster_name));
  options.workload = unwrap(sim::parse_workload(workload_text, workload_name));
  options.strategy = strategy;
  options.optimizer.kind = optimizer;
  options.steps = steps;
  options.seed = seed;
  options.timeline = timeline;
  options.timeout = base::from_seconds(timeout);
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

}  // namespace

NB_MODULE(_sim, m) {
  m.doc() = "The simulator of gearshift; use gearshift.sim instead.";
  nb::module_::import_("gearshift._core");  // knows strategies
  bind_errors(m);
  m.def("simulate", &simulate, nb::kw_only(), nb::arg("cluster_text"), nb::arg("cluster_name"),
        nb::arg("workload_text"), nb::arg("workload_name"), nb::arg("strategy"),
        nb::arg("optimizer") = "sgd", nb::arg("steps") = 20, nb::arg("seed") = 1,
        nb::arg("timeline") = false, nb::arg("timeout") = 3600.0,
        nb::arg("on_step").none() = nb::none());
  m.def("describe_cluster", &describe_cluster, nb::arg("text"), nb::arg("name"));
}

}  // namespace gearshift::python
