#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <sstream>

#include "calls.h"
#include "gearshift/strategy/config.h"
#include "policy.h"

namespace gearshift::python {
namespace {

using base::Error;
using base::ErrorCode;

template <typename Value>
Value known(const std::optional<Value>& found, const std::string& what,
            const std::vector<std::string_view>& names) {
  if (found) return *found;
  std::string all;
  for (const std::string_view name : names) all += (all.empty() ? "" : ", ") + std::string(name);
  raise(Error(ErrorCode::kInvalidArgument, "there is no " + what + "; known are " + all));
}

strategy::Compression compression_of(const std::string& name) {
  return known(strategy::compression_from_string(name), "compression '" + name + "'",
               strategy::compression_names());
}

strategy::AllReduce make_all_reduce(const std::string& algorithm, const std::string& compression) {
  return {known(collectives::algorithm_from_string(algorithm),
                "all-reduce algorithm '" + algorithm + "'", collectives::algorithm_names()),
          compression_of(compression)};
}

strategy::LocalSgd make_local_sgd(int every, double outer_lr, double outer_momentum,
                                  const std::string& compression) {
  return {every, outer_lr, outer_momentum, compression_of(compression)};
}

strategy::LrScaling lr_scaling(const std::string& name) {
  static constexpr const char* kNames[] = {"auto", "keep", "divide", "sqrt"};
  for (unsigned char i = 0; i < 4; ++i) {
    if (name == kNames[i]) return static_cast<strategy::LrScaling>(i);
  }
  raise(Error(ErrorCode::kInvalidArgument,
              "lr_scaling '" + name + "' is none of auto, keep, divide, sqrt"));
}

strategy::ParameterServer make_server(const std::string& consistency, int shards, int servers,
                                      double clip_norm, const std::string& scaling,
                                      double divergence_factor, const std::string& compression) {
  strategy::ParameterServer server;
  server.consistency = unwrap(ps::Consistency::parse(consistency));
  server.shards = shards;
  server.servers = servers;
  server.clip_norm = clip_norm;
  server.lr_scaling = lr_scaling(scaling);
  server.divergence_factor = divergence_factor;
  server.compression = compression_of(compression);
  return server;
}

void bind_metrics(nb::module_& m) {
  nb::class_<strategy::Metrics>(m, "Metrics")
      .def_ro("step", &strategy::Metrics::step)
      .def_ro("total_steps", &strategy::Metrics::total_steps)
      .def_ro("epoch", &strategy::Metrics::epoch)
      .def_ro("loss", &strategy::Metrics::loss)
      .def_ro("epoch_losses", &strategy::Metrics::epoch_losses)
      .def_ro("strategy", &strategy::Metrics::strategy)
      .def_ro("staleness", &strategy::Metrics::staleness);
}

void bind_policies(nb::module_& m) {
  nb::class_<strategy::Policy>(m, "Policy").def_prop_ro("name", &strategy::Policy::name);
  m.def("loss_plateau", &strategy::loss_plateau, nb::arg("window"), nb::arg("threshold"));
  m.def("at_step", &strategy::at_step, nb::arg("step"));
  m.def("at_fraction", &strategy::at_fraction, nb::arg("fraction"));
  m.def(
      "custom_policy",
      [](std::string name, nb::callable decide) -> std::shared_ptr<strategy::Policy> {
        return std::make_shared<PythonPolicy>(std::move(name), std::move(decide));
      },
      nb::arg("name"), nb::arg("decide"));
}

}  // namespace

PythonPolicy::PythonPolicy(std::string name, nb::callable decide)
    : name_(std::move(name)), decide_(std::move(decide)) {}

PythonPolicy::~PythonPolicy() {
  if (!Py_IsInitialized()) {
    decide_.release();
    return;
  }
  GilHeld held;
  decide_.reset();
}

strategy::Verdict PythonPolicy::decide(const strategy::Metrics& metrics) {
  std::ostringstream inputs;
  inputs << "step " << metrics.step << ", epoch " << metrics.epoch << ", loss " << metrics.loss;
  GilHeld held;
  try {
    return {nb::cast<bool>(nb::bool_(decide_(metrics))), inputs.str()};
  } catch (nb::python_error& e) {
    // The caller may be a server's own task: kept until the worker's next step raises it.
    if (!error_) error_ = error_of(e, "switch policy '" + name_ + "'");
    return {};
  }
}

std::optional<base::Error> PythonPolicy::error() const { return error_; }

void bind_strategy(nb::module_& m) {
  bind_metrics(m);
  bind_policies(m);
  nb::class_<strategy::AllReduce>(m, "AllReduce")
      .def(nb::new_(&make_all_reduce), nb::arg("algorithm"), nb::arg("compression"));
  nb::class_<strategy::LocalSgd>(m, "LocalSGD")
      .def(nb::new_(&make_local_sgd), nb::arg("every"), nb::arg("outer_lr"),
           nb::arg("outer_momentum"), nb::arg("compression"));
  nb::class_<strategy::ParameterServer>(m, "ParameterServer")
      .def(nb::new_(&make_server), nb::arg("consistency"), nb::arg("shards"), nb::arg("servers"),
           nb::arg("clip_norm"), nb::arg("lr_scaling"), nb::arg("divergence_factor"),
           nb::arg("compression"));
  nb::class_<strategy::StrategySwitch>(m, "StrategySwitch")
      .def(nb::new_([](strategy::Phase start, strategy::Phase then,
                       std::shared_ptr<strategy::Policy> policy,
                       std::optional<std::shared_ptr<strategy::Policy>> back) {
             return strategy::StrategySwitch{std::move(start), std::move(then), std::move(policy),
                                             back.value_or(nullptr)};
           }),
           nb::arg("start"), nb::arg("then"), nb::arg("policy"), nb::arg("back").none());
  nb::class_<strategy::Strategy>(m, "Strategy")
      .def(nb::new_([](decltype(strategy::Strategy::kind) kind,
                       std::optional<std::size_t> bucket_bytes, std::int64_t total_steps) {
             return strategy::Strategy{std::move(kind), bucket_bytes, total_steps};
           }),
           nb::arg("kind"), nb::arg("bucket_bytes").none(), nb::arg("total_steps"))
      .def(
          "validate",
          [](const strategy::Strategy& s, int workers, int servers) {
            unwrap(s.validate(workers, servers));
          },
          nb::arg("workers"), nb::arg("servers"))
      .def("__str__", &strategy::Strategy::to_string);
  m.def(
      "parse_strategy", [](const std::string& text) { return unwrap(strategy::parse(text)); },
      nb::arg("text"), "As C++ programs read it; Python's is gearshift.strategy.parse().");
}

}  // namespace gearshift::python
