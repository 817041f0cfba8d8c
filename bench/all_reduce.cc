// gearshift's all-reduce of the workers' group, for the comparison of collectives.
//
//   gearshift run -n 2 -- all_reduce bytes=1048576 operations=100 [--dtype float16]
//
// Options: --dtype float32|float16|bfloat16, --algorithm auto|ring|… (as collectives::Options).

#include <cstdio>
#include <exception>
#include <stdexcept>

#include "gearshift/collectives/collectives.h"
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

class GearshiftSubject : public bench::Subject {
 public:
  GearshiftSubject(Session& session, base::DType dtype, collectives::Options options)
      : session_(session), dtype_(dtype), options_(std::move(options)) {}

  std::byte* memory(std::size_t bytes) override {
    if (buffer_.size() != bytes) buffer_ = base::Buffer(bytes);
    return buffer_.data();
  }
  void all_reduce(std::byte* data, std::size_t bytes) override {
    check(collectives::all_reduce(session_.workers(), {data, bytes}, dtype_, base::ReduceOp::kSum,
                                  options_));
  }

 private:
  Session& session_;
  const base::DType dtype_;
  const collectives::Options options_;
  base::Buffer buffer_;
};

void run(int argc, char** argv) {
  const std::string type = bench::option(argc, argv, "--dtype", "float32");
  const auto element = bench::element_named(type);
  const auto dtype = base::dtype_from_string(type);
  collectives::Options options;
  const std::string name = bench::option(argc, argv, "--algorithm", "auto");
  const auto algorithm = collectives::algorithm_from_string(name);
  if (!dtype || !algorithm) throw std::invalid_argument("no algorithm is called " + name);
  options.algorithm = *algorithm;
  options.label = "all_reduce of the benchmark";

  const auto session = check(Session::create(check(SessionOptions::from_environment())));
  {
    GearshiftSubject subject(*session, *dtype, options);
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
