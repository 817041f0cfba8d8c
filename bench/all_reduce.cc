// gearshift's all-reduce of the workers' group, for the comparison of collectives.
//
//   gearshift run -n 2 -- all_reduce bytes=1048576 operations=100 [--dtype float16]
//
// Options: --dtype float32|float16|bfloat16, --algorithm auto|ring|… (as collectives::Options),
// --memory shared|plain: from collectives::allocate, as training uses it, or any memory.

#include <cstdio>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "gearshift/collectives/collectives.h"
#include "gearshift/collectives/cost.h"
#include "gearshift/runtime/session.h"
#include "support/all_reduce_rounds.h"

namespace {

namespace bench = gearshift::bench;
namespace base = gearshift::base;
namespace collectives = gearshift::collectives;
using gearshift::runtime::Session;
using gearshift::runtime::SessionOptions;

template <typename T>
T check(base::Result<T> result) {
  if (!result) throw std::runtime_error(result.error().to_string());
  return std::move(result).value();
}
void check(const base::Status& status) {
  if (!status) throw std::runtime_error(status.error().to_string());
}

struct Settings {
  base::DType dtype = base::DType::kF32;
  bool shared = true;
  collectives::Options options;
};

class GearshiftSubject : public bench::Subject {
 public:
  GearshiftSubject(Session& session, Settings settings)
      : session_(session), settings_(std::move(settings)) {}

  std::byte* memory(std::size_t bytes) override {
    if (bytes == bytes_) return data_;
    if (settings_.shared) {
      shared_.reset();
      shared_ = check(collectives::allocate(session_.workers(), bytes));
      data_ = shared_->view().data();
    } else {
      plain_ = base::Buffer(bytes);
      data_ = plain_.data();
    }
    bytes_ = bytes;
    return data_;
  }
  void all_reduce(std::byte* data, std::size_t bytes) override {
    check(collectives::all_reduce(session_.workers(), {data, bytes}, settings_.dtype,
                                  base::ReduceOp::kSum, settings_.options));
  }

  std::string explain(std::size_t bytes) const override {
    return collectives::explain_all_reduce(session_.workers(), bytes);
  }

 private:
  Session& session_;
  const Settings settings_;
  std::unique_ptr<collectives::SharedBuffer> shared_;
  base::Buffer plain_;
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

Settings parse(int argc, char** argv) {
  Settings settings;
  const auto dtype = base::dtype_from_string(bench::option(argc, argv, "--dtype", "float32"));
  const auto algorithm =
      collectives::algorithm_from_string(bench::option(argc, argv, "--algorithm", "auto"));
  const std::string memory = bench::option(argc, argv, "--memory", "shared");
  if (!dtype) throw std::invalid_argument("--dtype: float32, float16 or bfloat16");
  if (!algorithm) throw std::invalid_argument("--algorithm: auto, ring, ...");
  if (memory != "shared" && memory != "plain")
    throw std::invalid_argument("--memory: shared, plain");
  settings.dtype = *dtype;
  settings.shared = memory == "shared";
  settings.options.algorithm = *algorithm;
  settings.options.label = "all_reduce of the benchmark";
  return settings;
}

void run(int argc, char** argv) {
  const Settings settings = parse(argc, argv);
  const auto element = bench::element_named(std::string(base::to_string(settings.dtype)));
  const auto session = check(Session::create(check(SessionOptions::from_environment())));
  {
    GearshiftSubject subject(*session, settings);
    bench::Gate gate(session->rank().value, argc, argv);
    bench::serve_all_reduce(gate, subject, element, session->rank().value, session->world_size());
  }
  check(session->close());
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run(argc, argv);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "all_reduce: %s\n", error.what());
    return 1;
  }
}
