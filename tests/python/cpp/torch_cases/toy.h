#pragma once

#include <torch/torch.h>

#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "gearshift/gearshift.h"
#include "gearshift/torch/distribute.h"

/// A small model in float64, and its training in one process, by which the cases judge.
namespace cases {

namespace gs = gearshift;
using gs::torch::Distributed;
using gs::torch::or_throw;
using torch::Tensor;

using Case = void (*)(gs::Session&);
struct Entry {
  std::string name;
  Case run;
};
inline std::vector<Entry>& all() {
  static std::vector<Entry> entries;
  return entries;
}
struct Register {
  Register(const char* name, Case run) { all().push_back({name, run}); }
};
/// Defines a case that all ranks of a job run.
#define CASE(name)                                        \
  void name(gs::Session& session);                        \
  const ::cases::Register registered_##name{#name, name}; \
  void name([[maybe_unused]] gs::Session& session)

inline void expect(bool held, const std::string& what) {
  if (!held) throw std::runtime_error(what);
}
inline void expect_close(const Tensor& got, const Tensor& wanted, const std::string& what,
                         double tolerance = 1e-12) {
  const double off = (got - wanted).abs().max().item<double>();
  expect(off <= tolerance * std::max(1.0, wanted.abs().max().item<double>()),
         what + " is off by " + std::to_string(off * 1e12) + "e-12");
}
inline void expect_error(const gs::base::Error& error, gs::base::ErrorCode code,
                         const std::string& text) {
  expect(error.code == code && error.message.find(text) != std::string::npos,
         "'" + text + "' expected, got " + error.to_string());
}

/// What is unusual about a model, each by its own switch.
struct Traits {
  bool frozen = false;     ///< the first bias requires no gradient
  bool unused = false;     ///< a layer that no forward comes through
  bool sometimes = false;  ///< a layer through which forwards with `extra` come
  bool tied = false;       ///< the middle layer twice, under two names
};

struct NetImpl : torch::nn::Module {
  explicit NetImpl(const Traits& t = {}) : traits(t) {
    first = register_module("first", torch::nn::Linear(5, 7));
    middle = register_module("middle", torch::nn::Linear(7, 7));
    if (t.tied) register_module("again", middle);
    if (t.unused) register_module("unused", torch::nn::Linear(3, 3));
    if (t.sometimes) extra = register_module("extra", torch::nn::Linear(7, 7));
    last = register_module("last", torch::nn::Linear(7, 2));
    to(torch::kDouble);
    if (t.frozen) first->bias.set_requires_grad(false);
  }
  Tensor forward(const Tensor& x, bool with_extra = false) {
    Tensor y = middle->forward(torch::tanh(first->forward(x)));
    if (traits.tied) y = middle->forward(torch::tanh(y));
    if (with_extra) y = y + extra->forward(y);
    return last->forward(torch::tanh(y));
  }
  Traits traits;
  torch::nn::Linear first{nullptr}, middle{nullptr}, extra{nullptr}, last{nullptr};
};
TORCH_MODULE(Net);

/// The same on every rank for rank -1, else of that rank alone.
inline Net make_net(const Traits& traits = {}, int rank = -1) {
  torch::manual_seed(rank <= 0 ? 7 : 100 + rank);
  return Net(traits);
}

inline Tensor everything(const Net& net) {
  std::vector<Tensor> flat;
  for (const Tensor& p : net->parameters()) flat.push_back(p.detach().flatten().clone());
  return torch::cat(flat);
}

struct Batch {
  Tensor x, y;
  double samples() const { return static_cast<double>(x.size(0)); }
};

/// What rank r gets in a step: sizes differ.
inline Batch batch_of(int rank, int step) {
  auto generator = at::detail::createCPUGenerator(static_cast<std::uint64_t>(1000 * step + rank));
  const auto options = torch::TensorOptions(torch::kDouble);
  const std::int64_t n = 2 + rank + step % 2;
  return {torch::randn({n, 5}, generator, options), torch::randn({n, 2}, generator, options)};
}

inline Batch joined(const std::vector<Batch>& parts) {
  std::vector<Tensor> xs, ys;
  for (const Batch& b : parts) {
    xs.push_back(b.x);
    ys.push_back(b.y);
  }
  return {torch::cat(xs), torch::cat(ys)};
}
inline Batch of_all(int world, int step) {
  std::vector<Batch> parts;
  for (int r = 0; r < world; ++r) parts.push_back(batch_of(r, step));
  return joined(parts);
}

inline Tensor loss_of(Net& net, const Batch& b, bool extra = false) {
  return torch::mse_loss(net->forward(b.x, extra), b.y);
}

using OptimizerPtr = std::unique_ptr<torch::optim::Optimizer>;

/// Two param groups with rates of their own: biases learn at half of it.
template <typename Optimizer, typename Options>
OptimizerPtr make_optimizer(Net& net, Options options) {
  std::vector<Tensor> weights, biases;
  std::map<const void*, bool> seen;
  for (const auto& item : net->named_parameters()) {
    if (!seen.emplace(item.value().unsafeGetTensorImpl(), true).second) continue;
    (item.value().dim() > 1 ? weights : biases).push_back(item.value());
  }
  auto slower = std::make_unique<Options>(options);
  slower->lr(options.lr() / 2);
  std::vector<torch::optim::OptimizerParamGroup> groups;
  groups.emplace_back(weights, std::make_unique<Options>(options));
  groups.emplace_back(biases, std::move(slower));
  return std::make_unique<Optimizer>(groups, options);
}

using MakeOptimizer = std::function<OptimizerPtr(Net&)>;

inline const std::map<std::string, MakeOptimizer>& optimizers() {
  namespace o = torch::optim;
  static const std::map<std::string, MakeOptimizer> known{
      {"sgd",
       [](Net& n) {
         return make_optimizer<o::SGD>(
             n, o::SGDOptions(0.1).momentum(0.9).weight_decay(0.01).nesterov(true));
       }},
      {"plain_sgd", [](Net& n) { return make_optimizer<o::SGD>(n, o::SGDOptions(0.2)); }},
      {"adam",
       [](Net& n) {
         return make_optimizer<o::Adam>(n, o::AdamOptions(0.01).amsgrad(true).weight_decay(0.02));
       }},
      {"adamw", [](Net& n) { return make_optimizer<o::AdamW>(n, o::AdamWOptions(0.01)); }},
      {"adagrad",
       [](Net& n) {
         return make_optimizer<o::Adagrad>(
             n, o::AdagradOptions(0.05).lr_decay(0.1).initial_accumulator_value(0.1));
       }},
      {"rmsprop", [](Net& n) {
         return make_optimizer<o::RMSprop>(n, o::RMSpropOptions(0.01).momentum(0.5));
       }}};
  return known;
}

/// Every sixth step the rates go down.
inline void schedule(torch::optim::Optimizer& optimizer, int step) {
  if (step % 6 != 5) return;
  for (auto& group : optimizer.param_groups()) {
    group.options().set_lr(group.options().get_lr() * 0.5);
  }
}

constexpr int kSteps = 12;

inline gs::Strategy small_buckets() {
  gs::Strategy s;
  s.bucket_bytes = 256;
  return s;
}
inline gs::Strategy all_reduce() { return small_buckets(); }
inline gs::Strategy server(gs::ps::Consistency consistency = gs::ps::Consistency::bsp()) {
  gs::Strategy s = small_buckets();
  gs::ParameterServer config;
  config.consistency = consistency;
  s.kind = config;
  return s;
}
inline gs::Strategy local_sgd(int every, double lr = 1, double momentum = 0) {
  gs::Strategy s = small_buckets();
  s.kind = gs::LocalSgd{every, lr, momentum, gs::Compression::kNone};
  return s;
}
inline gs::Strategy there_and_back() {
  gs::Strategy s = small_buckets();
  s.kind = gs::StrategySwitch{gs::AllReduce{}, gs::ParameterServer{}, gs::strategy::at_step(4),
                              gs::strategy::at_step(8)};
  return s;
}

/// A model of one rank in training, distributed.
struct Trained {
  Trained(gs::Session& session, const gs::torch::Options& options, const std::string& kind = "sgd",
          const Traits& traits = {})
      : rank(session.rank().value),
        net(make_net(traits, rank)),
        optimizer(optimizers().at(kind)(net)),
        distributed(or_throw(gs::torch::distribute(session, *net, *optimizer, options))) {}

  void step(const Batch& b, bool extra = false, bool to_none = true) {
    or_throw(distributed->batch(b.samples()));
    optimizer->zero_grad(to_none);
    const Tensor loss = loss_of(net, b, extra);
    loss.backward();
    or_throw(distributed->step(loss));
  }

  int rank;
  Net net;
  OptimizerPtr optimizer;
  std::unique_ptr<Distributed> distributed;
};

/// The same in one process.
struct Alone {
  explicit Alone(const std::string& kind = "sgd", const Traits& traits = {})
      : net(make_net(traits)), optimizer(optimizers().at(kind)(net)) {}

  void step(const Batch& b, bool extra = false, bool to_none = true) {
    optimizer->zero_grad(to_none);
    loss_of(net, b, extra).backward();
    optimizer->step();
  }

  Net net;
  OptimizerPtr optimizer;
};

}  // namespace cases
