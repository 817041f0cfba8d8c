#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "gearshift/collectives/collectives.h"
#include "gearshift/ps/consistency.h"

namespace gearshift::strategy {

/// What gradients of float32 travel as. Those of other types travel as they are.
enum class Compression : unsigned char {
  kNone,
  kBf16,  ///< bfloat16: half the bytes, the range of float32, 8 bits of precision
};
std::string_view to_string(Compression compression);
std::optional<Compression> compression_from_string(std::string_view name);
/// All names that `compression_from_string` knows, "none" first.
std::vector<std::string_view> compression_names();

/// Every worker holds a replica; gradients are averaged, every worker applies its own optimizer.
struct AllReduce {
  collectives::Algorithm algorithm = collectives::Algorithm::kAuto;
  /// Each rank's share of the mean is rounded once, and each sum on its way; all ranks have the
  /// same bits in the end, as ever.
  Compression compression = Compression::kNone;
};

/// Local SGD: every worker trains alone with its own optimizer, and every so many steps all replace
/// their parameters by the mean, weighted by the samples that each has learnt from since the last
/// time. Sources: Stich, "Local SGD converges fast and communicates little" (2019); of the outer
/// optimizer, Douillard et al., "DiLoCo" (2023).
///
/// Cost: one round of All-Reduce per `every` steps, and memory for the parameters of the last
/// round.
struct LocalSgd {
  int every = 8;  ///< steps between two rounds, from 1 on
  /// The outer optimizer, SGD with Nesterov's momentum, takes what the parameters have lost on
  /// average since the last round for a gradient. A rate of 1 without momentum is the plain mean.
  double outer_lr = 1;
  double outer_momentum = 0;  ///< from 0 to below 1
  /// Of the changes since the last round, on their way.
  Compression compression = Compression::kNone;
};

/// How the learning rate of a push relates to the one that the training loop set; of Adagrad it is
/// the gradient that is divided (ps::Optimizer::apply says why).
enum class LrScaling : unsigned char {
  kAuto,    ///< divide for SSP and ASP (one push is 1/N of a step), keep for BSP and Buffered
  kKeep,    ///< as it is
  kDivide,  ///< rate / N
  kSqrt,    ///< rate / sqrt(N)
};

/// Shards own the parameters and the optimizer's state; workers push gradients and get parameters.
struct ParameterServer {
  ps::Consistency consistency = ps::Consistency::bsp();
  /// Number of shards hosted in workers 0 … shards-1; 0: one per worker. With dedicated server
  /// processes: 0, since there is one shard in each of them.
  int shards = 0;
  /// Dedicated server processes that the job must have been started with; -1: whatever it has.
  int servers = -1;
  /// BSP: global norm to which the averaged gradient is clipped; otherwise each worker's own
  /// gradient is clipped to it before the push. 0: not.
  double clip_norm = 0;
  LrScaling lr_scaling = LrScaling::kAuto;
  /// See ps::ShardOptions.
  double divergence_factor = 10;
  /// Of gradients on their way to shards; parameters come back as they are.
  Compression compression = Compression::kNone;
};

using Phase = std::variant<AllReduce, LocalSgd, ParameterServer>;
/// "all_reduce", "local_sgd(8)", "parameter_server(asp)": for logs and tables.
std::string to_string(const Phase& phase);

/// What a policy sees: values that are equal on all ranks.
struct Metrics {
  std::int64_t step = 0;         ///< the step about to end, counts from 1
  std::int64_t total_steps = 0;  ///< of the whole job when the user said so, else 0
  std::int64_t epoch = 0;
  double loss = 0;  ///< reduced over all workers, of the latest step known; NaN: none, not finite
  std::vector<double> epoch_losses;  ///< mean reduced loss of each finished epoch
  std::size_t earlier_epochs = 0;    ///< so many of them had finished when the phase began
  std::string strategy;              ///< in force
  double staleness = 0;              ///< mean so far; 0 without a server
};

/// Whether to switch now, and on what grounds (for the decision log).
struct Verdict {
  bool switch_now = false;
  std::string inputs;
};

/// Decides when the strategy changes. Called on every rank under All-Reduce, and under LocalSgd in
/// the steps that end with a round, with equal metrics; the ranks' votes are compared. Under a
/// server, on the rank of shard 0.
/// Thread-safety: one call at a time.
class Policy {
 public:
  virtual ~Policy() = default;
  virtual std::string name() const = 0;
  virtual Verdict decide(const Metrics& metrics) = 0;
  /// The step after which it fires, when that is known beforehand (At): then every rank decides
  /// alone. `total_steps` as in Metrics.
  virtual std::optional<std::int64_t> known_step(std::int64_t total_steps) const {
    (void)total_steps;
    return std::nullopt;
  }
  /// Whether it compares the losses of epochs, which steps must tell then.
  virtual bool compares_epochs() const { return false; }
  /// Why it cannot work in this job (At(fraction) without total_steps), or success.
  virtual base::Status validate(std::int64_t total_steps) const {
    (void)total_steps;
    return {};
  }
};

/// Fires when the mean relative change of the reduced loss between consecutive epochs, over the
/// last `window` changes, is below `threshold`. Epochs that finished before the phase in force
/// began do not count: a switch back needs `window` changes under the new strategy.
std::shared_ptr<Policy> loss_plateau(int window = 6, double threshold = 0.01);
/// Fires after exactly this step.
std::shared_ptr<Policy> at_step(std::int64_t step);
/// Fires after round(fraction · total_steps).
std::shared_ptr<Policy> at_fraction(double fraction);
/// Any callable; returns whether to switch.
std::shared_ptr<Policy> custom_policy(std::string name, std::function<bool(const Metrics&)> decide);

/// Starts with one phase and goes over to another when `policy` fires; when `back` is set, returns
/// when that fires, and so on. Each policy may fire any number of times.
struct StrategySwitch {
  Phase start = AllReduce{};
  Phase then = ParameterServer{ps::Consistency::asp()};
  std::shared_ptr<Policy> policy = loss_plateau();
  std::shared_ptr<Policy> back;  ///< null: stays
};

/// The strategy of a job, as a value.
struct Strategy {
  std::variant<AllReduce, LocalSgd, ParameterServer, StrategySwitch> kind = AllReduce{};
  /// Gradients travel in buckets of about so many bytes. Without a value: 4 MiB on one host, by
  /// measured links between several (docs/strategies.md).
  std::optional<std::size_t> bucket_bytes{};
  /// Optimizer steps that the job will make, if known (for At(fraction)).
  std::int64_t total_steps = 0;

  base::Status validate(int workers, int servers) const;
  /// Complete and stable: equal strategies have equal texts (compared across ranks).
  std::string to_string() const;
};

/// A strategy from its text, the same as in Python and in job files (docs/strategies.md):
/// "all_reduce:ring(bucket_mb=8)", "local_sgd(8)", "ps:ssp(3, shards=2)",
/// "switch(then=ps:bsp, at=0.5)".
/// Errors: kInvalidArgument.
base::Result<Strategy> parse(std::string_view text);

}  // namespace gearshift::strategy
