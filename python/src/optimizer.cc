#include "gearshift/ps/optimizer.h"

#include <nanobind/stl/map.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>

#include "calls.h"

namespace gearshift::python {
namespace {

/// Runs `f` with the GIL; what it raises becomes an error of the core.
template <typename F>
base::Status guarded(const char* where, F&& f) {
  GilHeld held;
  try {
    f();
    return {};
  } catch (nb::python_error& e) {
    return error_of(e, where);
  } catch (const nb::cast_error&) {
    return base::Error(base::ErrorCode::kInvalidArgument,
                       std::string(where) + ": a value of an unexpected type");
  }
}

std::uintptr_t address(base::ConstBytes bytes) {
  return reinterpret_cast<std::uintptr_t>(bytes.data());
}

/// An update rule in Python, working on the memory of a shard (gearshift.torch._shard_optimizer).
class PythonOptimizer final : public ps::Optimizer {
 public:
  /// With the GIL.
  explicit PythonOptimizer(nb::object rule) : rule_(std::move(rule)) {}
  ~PythonOptimizer() override {
    if (!Py_IsInitialized()) {
      rule_.release();
      return;
    }
    GilHeld held;
    rule_.reset();
  }
  PythonOptimizer(const PythonOptimizer&) = delete;
  PythonOptimizer& operator=(const PythonOptimizer&) = delete;

  base::Status apply(std::span<const ps::SegmentUpdate> updates, const ps::HyperValues& hypers,
                     double lr_factor) override {
    return guarded("optimizer on the server", [&] {
      nb::list list;
      for (const ps::SegmentUpdate& u : updates) {
        list.append(nb::make_tuple(u.slice, u.segment, address(u.parameter), address(u.gradient)));
      }
      rule_.attr("apply")(list, hypers, lr_factor);
    });
  }

  std::vector<std::string> tensor_names(std::uint32_t slice, std::uint32_t segment) const override {
    return ask<std::vector<std::string>>("tensor_names", slice, segment);
  }
  std::map<std::string, double> scalars(std::uint32_t slice, std::uint32_t segment) const override {
    return ask<std::map<std::string, double>>("scalars", slice, segment);
  }
  base::Status read_tensor(std::uint32_t slice, std::uint32_t segment, const std::string& name,
                           base::Bytes out) const override {
    return guarded("reading optimizer state", [&] {
      rule_.attr("read_tensor")(slice, segment, name, address(out), out.size());
    });
  }
  base::Status write_tensor(std::uint32_t slice, std::uint32_t segment, const std::string& name,
                            base::ConstBytes in) override {
    return guarded("writing optimizer state", [&] {
      rule_.attr("write_tensor")(slice, segment, name, address(in), in.size());
    });
  }
  base::Status write_scalar(std::uint32_t slice, std::uint32_t segment, const std::string& name,
                            double value) override {
    return guarded("writing optimizer state",
                   [&] { rule_.attr("write_scalar")(slice, segment, name, value); });
  }
  void reset() override {
    static_cast<void>(guarded("resetting optimizer state", [&] { rule_.attr("reset")(); }));
  }

 private:
  template <typename T>
  T ask(const char* method, std::uint32_t slice, std::uint32_t segment) const {
    T value;
    static_cast<void>(
        guarded(method, [&] { value = nb::cast<T>(rule_.attr(method)(slice, segment)); }));
    return value;
  }

  nb::object rule_;
};

nb::list describe(const std::vector<ps::Slice>& slices) {
  nb::list list;
  for (const ps::Slice& slice : slices) {
    nb::list segments;
    for (const ps::Segment& segment : slice.segments) {
      segments.append(nb::make_tuple(segment.parameter, segment.param_group, segment.size));
    }
    list.append(nb::make_tuple(std::string(base::to_string(slice.dtype)), segments));
  }
  return list;
}

/// Kept for the process's life: servers may ask until its end.
void set_factory(nb::callable make) {
  auto* factory = new nb::object(std::move(make));
  ps::set_external_optimizer_factory(
      [factory](
          const ps::OptimizerSpec& spec,
          const std::vector<ps::Slice>& slices) -> base::Result<std::unique_ptr<ps::Optimizer>> {
        std::unique_ptr<ps::Optimizer> made;
        base::Status status = guarded("optimizer on the server", [&] {
          nb::object rule =
              (*factory)(spec.kind, spec.hyper_names, spec.param_groups, describe(slices));
          made = std::make_unique<PythonOptimizer>(std::move(rule));
        });
        if (!status) return status.error();
        return made;
      });
}

}  // namespace

void bind_optimizer(nb::module_& m) {
  m.def("set_optimizer_factory", &set_factory, nb::arg("make"));
  m.def("is_native_optimizer", &ps::is_native_optimizer, nb::arg("kind"));
}

}  // namespace gearshift::python
