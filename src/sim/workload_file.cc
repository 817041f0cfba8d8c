#include "gearshift/base/dtype.h"
#include "gearshift/sim/workload.h"
#include "sim/check.h"
#include "sim/toml_reader.h"
#include "sim/variability_file.h"

namespace gearshift::sim {
namespace {

void read_dtype(TomlTable& table, base::DType& out) {
  std::string name;
  if (!table.text("dtype", name)) return;
  if (const auto dtype = base::dtype_from_string(name)) {
    out = *dtype;
  } else {
    table.fail("dtype", "no data type is called \"" + name +
                            "\"; they are float64, float32, float16 and bfloat16");
  }
}

/// Gradients become final from the last parameter to the first, each in a time in proportion to
/// its bytes; those that say `ready` themselves are left as they are.
void spread_ready(Workload& workload, const std::vector<bool>& given) {
  const auto total = static_cast<double>(workload.parameter_bytes());
  const std::vector<strategy::ParameterSpec> specs = workload.specs();
  std::size_t bytes = 0;
  for (std::size_t i = specs.size(); i-- > 0;) {
    bytes += specs[i].elements() * base::size_of(specs[i].dtype);
    if (given[i]) continue;
    workload.parameters[i].ready_seconds =
        workload.backward_seconds * (static_cast<double>(bytes) / total);
  }
}

class WorkloadReader {
 public:
  WorkloadReader(const std::string& text, const std::string& name)
      : file_(name, text,
              {"name", "batch_size", "forward", "backward", "optimizer", "variability",
               "parameters"}),
        root_(file_, file_.root(), "") {}

  base::Result<Workload> read() {
    if (file_.error()) return *file_.error();
    if (!root_.text("name", workload_.name)) workload_.name = stem_of(file_.name());
    root_.integer("batch_size", workload_.batch_size, 1);
    root_.duration("forward", workload_.forward_seconds);
    root_.require("forward");
    root_.duration("backward", workload_.backward_seconds);
    root_.require("backward");
    root_.duration("optimizer", workload_.optimizer_seconds);
    variability_ = root_.table("variability");
    if (variability_) workload_.variability = read_variability(*variability_);
    read_parameters();
    root_.no_other_keys();
    if (!file_.error()) {
      if (const auto problem = find_problem(workload_)) report(*problem);
    }
    if (file_.error()) return *file_.error();
    // Only now: the shapes are known to be sound.
    spread_ready(workload_, ready_given_);
    return std::move(workload_);
  }

 private:
  void read_parameters() {
    parameters_ = root_.tables("parameters");
    for (TomlTable& table : parameters_) {
      WorkloadParameter parameter;
      table.text("name", parameter.name);
      table.require("name");
      table.integers("shape", parameter.shape);
      table.require("shape");
      read_dtype(table, parameter.dtype);
      ready_given_.push_back(table.duration("ready", parameter.ready_seconds));
      table.no_other_keys();
      workload_.parameters.push_back(std::move(parameter));
    }
  }

  void report(const Problem& problem) {
    if (problem.index) {
      parameters_[*problem.index].fail(problem.key, problem.what);
    } else if (problem.section == "variability") {
      variability_->fail(problem.key, problem.what);
    } else {
      root_.fail(problem.section + problem.key, problem.what);
    }
  }

  TomlFile file_;
  TomlTable root_;
  std::optional<TomlTable> variability_;
  std::vector<TomlTable> parameters_;
  std::vector<bool> ready_given_;
  Workload workload_;
};

}  // namespace

base::Result<Workload> parse_workload(const std::string& text, const std::string& name) {
  return WorkloadReader(text, name).read();
}

base::Result<Workload> load_workload(const std::string& path) {
  GEARSHIFT_ASSIGN_OR_RETURN(const std::string text, read_file(path));
  return parse_workload(text, path);
}

}  // namespace gearshift::sim
