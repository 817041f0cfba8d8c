#include "paced.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>
#include <sys/prctl.h>

#include <memory>
#include <string>

#include "calls.h"
#include "gearshift/runtime/session.h"
#include "gearshift/sim/link_probe.h"
#include "gearshift/sim/paced_job.h"

namespace gearshift::python {
namespace {

template <typename F>
auto without_gil(F&& f) {
  GilReleased released;
  return f();
}

/// This process's part of a job, in which paced trainings run one after another.
class PacedSession {
 public:
  static std::unique_ptr<PacedSession> open() {
    // Timers may be late by 50 µs otherwise; threads that are made later inherit it.
    ::prctl(PR_SET_TIMERSLACK, 1UL);
    const auto options = unwrap(runtime::SessionOptions::from_environment());
    return std::make_unique<PacedSession>(
        unwrap(without_gil([&] { return runtime::Session::create(options); })));
  }
  explicit PacedSession(std::unique_ptr<runtime::Session> session) : session_(std::move(session)) {}

  runtime::Session& core() const { return *session_; }

  nb::dict run(const sim::SimulationOptions& job) {
    const transport::Traffic before = session_->traffic();
    auto result = unwrap(without_gil([&]() -> base::Result<sim::PacedResult> {
      auto done = train(job);
      if (!done) {
        session_->fail(done.error());
        return session_->explain(done.error());
      }
      return done;
    }));
    const transport::Traffic after = session_->traffic();
    result.worker.bytes_sent = after.bytes_sent - before.bytes_sent;
    result.worker.messages_sent = after.messages_sent - before.messages_sent;
    nb::dict dict = worker_dict(result.worker);
    dict["start"] = base::to_seconds(result.start.since_origin);
    dict["timeline"] = span_list(result.timeline);
    return dict;
  }

 private:
  base::Result<sim::PacedResult> train(const sim::SimulationOptions& job) {
    return sim::run_paced(job, session_->rank().value, session_->workers(),
                          [this](strategy::ReplicaOptions options) {
                            return session_->distribute(std::move(options));
                          });
  }

  std::unique_ptr<runtime::Session> session_;
};

nb::dict run(PacedSession& session, const std::string& cluster, const std::string& workload,
             const strategy::Strategy& strategy, const std::string& optimizer, int steps,
             std::uint64_t seed, bool timeline) {
  sim::SimulationOptions job;
  job.cluster = unwrap(sim::parse_cluster(cluster, "cluster"));
  job.workload = unwrap(sim::parse_workload(workload, "workload"));
  job.strategy = strategy;
  job.optimizer.kind = optimizer;
  job.steps = steps;
  job.seed = seed;
  job.timeline = timeline;
  return session.run(job);
}

/// Seconds of a message of each size, and from one small message to the next; on rank `a`.
nb::tuple probe_link(const PacedSession& session, int a, int b,
                     const std::vector<std::size_t>& sizes, int round_trips) {
  const sim::LinkTimes times = unwrap(without_gil([&] {
    return sim::probe_link(session.core().workers(), base::Rank(a), base::Rank(b), sizes,
                           round_trips);
  }));
  nb::list one_way;
  for (const double seconds : times.one_way) one_way.append(seconds);
  return nb::make_tuple(one_way, times.per_message);
}

nb::dict probe_work(const PacedSession& session) {
  const sim::WorkRates rates =
      unwrap(without_gil([&] { return sim::probe_work(session.core().workers().scheduler()); }));
  nb::dict dict;
  dict["reduce_bandwidth"] = rates.reduce;
  dict["update_bandwidth"] = rates.update;
  dict["copy_bandwidth"] = rates.copy;
  return dict;
}

/// Rank by rank of the workers, the number of its host.
std::vector<int> hosts(const PacedSession& session) {
  group::Group& workers = session.core().workers();
  std::vector<int> found(static_cast<std::size_t>(workers.size()), 0);
  if (workers.topology() == nullptr) return found;
  for (int r = 0; r < workers.size(); ++r) {
    found[static_cast<std::size_t>(r)] = workers.topology()->host_of(r);
  }
  return found;
}

}  // namespace

void bind_paced(nb::module_& m) {
  using S = PacedSession;
  nb::class_<S>(m, "PacedSession")
      .def(nb::new_(&S::open))
      .def_prop_ro("rank", [](const S& s) { return s.core().rank().value; })
      .def_prop_ro("is_server", [](const S& s) { return s.core().is_server(); })
      .def("hosts", &hosts)
      .def("probe_link", &probe_link, nb::arg("a"), nb::arg("b"), nb::arg("sizes"),
           nb::arg("round_trips"))
      .def("probe_work", &probe_work)
      .def("serve", [](const S& s) { unwrap(without_gil([&] { return s.core().serve(); })); })
      .def("close", [](const S& s) { unwrap(without_gil([&] { return s.core().close(); })); })
      .def("run", &run, nb::kw_only(), nb::arg("cluster_text"), nb::arg("workload_text"),
           nb::arg("strategy"), nb::arg("optimizer"), nb::arg("steps"), nb::arg("seed"),
           nb::arg("timeline"));
}

}  // namespace gearshift::python
