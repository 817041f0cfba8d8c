#include "options.h"

#include <map>
#include <stdexcept>

namespace toy {
namespace gs = gearshift;

Options parse(int argc, char** argv) {
  Options o;
  const std::map<std::string, std::string*> texts{{"--strategy", &o.strategy},
                                                  {"--progress", &o.progress}};
  const std::map<std::string, std::int64_t*> counts{
      {"--steps", &o.steps}, {"--switch-at", &o.switch_at}, {"--back-at", &o.back_at}};
  const std::map<std::string, int*> times{
      {"--step-ms", &o.step_ms}, {"--switch-ms", &o.switch_ms}, {"--end-ms", &o.end_ms}};
  for (int i = 1; i < argc; i += 2) {
    const std::string name = argv[i];
    if (i + 1 == argc) throw std::invalid_argument(name + " needs a value");
    const std::string value = argv[i + 1];
    if (const auto text = texts.find(name); text != texts.end()) {
      *text->second = value;
    } else if (const auto count = counts.find(name); count != counts.end()) {
      *count->second = std::stoll(value);
    } else if (const auto time = times.find(name); time != times.end()) {
      *time->second = std::stoi(value);
    } else {
      throw std::invalid_argument("there is no option " + name);
    }
  }
  return o;
}

gs::Strategy strategy_of(const Options& options) {
  const auto server = [](gs::ps::Consistency consistency) {
    gs::ParameterServer p;
    p.consistency = consistency;
    return p;
  };
  const auto switching = [&options](const gs::strategy::Phase& then) {
    const auto back = options.back_at > 0 ? gs::strategy::at_step(options.back_at) : nullptr;
    return gs::StrategySwitch{gs::AllReduce{}, then, gs::strategy::at_step(options.switch_at),
                              back};
  };
  using gs::ps::Consistency;
  gs::Strategy s;
  s.total_steps = options.steps;
  s.bucket_bytes = 64;  // a bucket per parameter
  const std::string& name = options.strategy;
  const gs::LocalSgd local{.every = 4};
  if (name == "all_reduce") {
    s.kind = gs::AllReduce{};
  } else if (name == "local_sgd") {
    s.kind = local;
  } else if (name == "bsp") {
    s.kind = server(Consistency::bsp());
  } else if (name == "ssp") {
    s.kind = server(Consistency::ssp(2));
  } else if (name == "asp") {
    s.kind = server(Consistency::asp());
  } else if (name == "buffered") {
    s.kind = server(Consistency::buffered(2));
  } else if (name == "switch") {
    s.kind = switching(server(Consistency::asp()));
  } else if (name == "switch_bsp") {
    s.kind = switching(server(Consistency::bsp()));
  } else if (name == "switch_local") {
    s.kind = switching(local);
  } else {
    throw std::invalid_argument("there is no strategy " + name);
  }
  return s;
}

}  // namespace toy
