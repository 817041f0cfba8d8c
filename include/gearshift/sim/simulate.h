#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "gearshift/base/result.h"
#include "gearshift/sim/cluster.h"
#include "gearshift/sim/workload.h"
#include "gearshift/strategy/replica.h"

namespace gearshift::sim {

/// What a learner says about one step of one worker.
struct LearnerStep {
  double loss = 0;  ///< mean over the batch
  /// Which parameters have a gradient, as for Replica::backward_end: one flag for each of the
  /// workload's; empty: all. What stands in the memory of the others does not matter.
  std::vector<bool> present;
  /// The optimizer's numbers in this step, where they follow a schedule; empty: those of the
  /// options.
  ps::HyperValues hypers;
};

/// Learns for real while time is simulated: gradients have values, and are applied in the order,
/// and at the staleness, that virtual time dictates.
///
/// All calls come from the thread that simulates, one at a time, and take no virtual time: that is
/// what the workload is for. An error ends the simulation, and so does what is thrown, which
/// `simulate` returns as kInvalidArgument.
class Learner {
 public:
  virtual ~Learner() = default;
  /// Before anything else: whether the workload is that of what is learnt; it is valid by itself.
  virtual base::Status check(const Workload& /*workload*/) { return {}; }
  /// Before training: fills the parameters of this worker's replica (those of rank 0 count).
  virtual base::Status begin(int rank, strategy::Replica& replica) = 0;
  /// The gradient of this worker's batch of step `step` (counts from 1) at its parameters, into
  /// `replica.gradient(p)` for each p that has one.
  virtual base::Result<LearnerStep> gradient(int rank, std::int64_t step,
                                             strategy::Replica& replica) = 0;
  /// How good the parameters of worker 0 are: accuracy, or what else is wanted.
  virtual base::Result<double> evaluate(strategy::Replica& replica) = 0;
};

/// A point of the learning curve.
struct CurvePoint {
  double seconds = 0;  ///< virtual, since the begin of training
  std::int64_t step = 0;
  double loss = 0;    ///< mean over worker 0's batches since the point before
  double metric = 0;  ///< Learner::evaluate
};

/// How messages that cross a link at the same time share it (docs/simulating.md, "Speed").
enum class Sharing : unsigned char {
  kAuto,    ///< kMaxMin for up to kMaxMinRanks processes, else kPerLink
  kMaxMin,  ///< each gets its max-min fair share of all links on its way: SimGrid's
  /// Each link shares itself equally among its messages, whatever the others do. Costs a fraction,
  /// and no more per message when thousands of them meet; how far steps differ from kMaxMin is
  /// asserted by tests/unit/sim/sharing_test.cc.
  kPerLink,
  /// There is no contention: between any two processes, messages take what they would alone on the
  /// narrowest link of their way. What a strategy takes of itself, in a network whose ports and
  /// switches never are the limit.
  kNone,
};
inline constexpr int kMaxMinRanks = 8;

/// What to simulate.
struct SimulationOptions {
  Cluster cluster;
  Workload workload;
  strategy::Strategy strategy;
  /// Rule and numbers of the optimizer: what servers apply. How long that takes is the host's
  /// `update_bandwidth`, whatever the rule.
  ps::OptimizerSpec optimizer{"sgd", {"lr", "momentum"}, 1};
  ps::HyperValues hypers{0.1, 0.9};
  /// The optimizer's param group of each parameter of the workload; empty: all are in the first.
  std::vector<std::uint32_t> param_groups;
  int steps = 20;
  std::uint64_t seed = 1;
  /// Virtual time after which an operation without progress is an error. A real job gives up after
  /// 30 s by default; here steps may take as long as a cluster makes them.
  base::Duration timeout = std::chrono::hours(24 * 365);
  /// Time after which a host that failed is missed, and the job ends: a real job's timeout.
  base::Duration detection = std::chrono::seconds(30);
  /// Steps between checkpoints, from the last of which training goes on when a failed host is back;
  /// 0: there are none, and it begins anew. Writing one takes no time.
  int checkpoint_every = 0;
  Sharing sharing = Sharing::kAuto;
  /// Simulate every step. Otherwise, once a training without randomness does the same in every step
  /// or every few, what repeats is not simulated again (docs/simulating.md, "Steps that repeat").
  bool every_step = false;
  /// Above 0, what does not repeat is not simulated to the end either: once the mean step time of
  /// the whole training is known to within this share of it, with 95 % confidence, the steps that
  /// are left are estimated from those before. 0: only what repeats exactly is left out.
  double steady_tolerance = 0.01;
  /// Keep every span of every rank for a timeline.
  bool timeline = false;
  /// Null: values do not matter, and have no memory.
  std::shared_ptr<Learner> learner;
  int evaluate_every = 100;  ///< steps of worker 0 between points of the learning curve
  int steps_per_epoch = 0;   ///< of a worker, for policies that look at epochs; 0: all in one
  /// Called after each step of worker 0, in real time, for a display of progress.
  std::function<void(int step)> on_step;
};

/// One step of one worker, in virtual seconds since the begin of training.
struct StepTimes {
  double begin = 0;
  double computed = 0;  ///< backward is over
  double end = 0;       ///< parameters are updated
};

struct WorkerResult {
  int rank = 0;
  std::string host;
  std::vector<StepTimes> steps;
  /// When each step was begun for the first time, which a failure may have undone; empty in a
  /// cluster without failures. May hold more than `steps`.
  std::vector<double> first_begins;
  /// Pushes by how many versions their parameters lagged; empty without servers.
  std::map<std::int64_t, std::int64_t> staleness;
  double exposed_seconds = 0;        ///< waited for communication, in `steps`
  double communication_seconds = 0;  ///< communicated in them, hidden behind computation or not
  std::uint64_t bytes_sent = 0;
  std::uint64_t messages_sent = 0;
};

/// One direction of a link, over the whole training.
struct LinkUse {
  std::string name;      ///< "node-3 out", "rack-1 up"
  double bandwidth = 0;  ///< bytes per second
  double bytes = 0;      ///< carried
};

/// A span of one rank's timeline, in virtual seconds.
struct Span {
  int rank = 0;
  std::string track;  ///< "computation", "wire to 3"
  std::string name;
  double begin = 0, end = 0;
};

/// Steps of all workers that were not simulated, for they are those before, later: the same again,
/// or copies that stand for them.
struct SkippedSteps {
  std::int64_t first = 0, last = 0;  ///< count from 1
  std::int64_t period = 1;           ///< steps before `first` that repeat together, or are copied
  bool estimated = false;            ///< not the same, but like them on average
  /// If estimated: the share by which the mean step time of the training may be off, with 95 %
  /// confidence (src/sim/mean_estimate.h has the method).
  double half_width = 0;
};

struct SimulationResult {
  double virtual_seconds = 0;  ///< from the begin of training to the end of its last step
  double wall_seconds = 0;     ///< that the simulation took
  std::uint64_t messages = 0;  ///< between different hosts or processes
  std::vector<WorkerResult> workers;
  std::vector<LinkUse> links;
  std::vector<strategy::SwitchRecord> switches;  ///< as worker 0 saw them
  /// What ended training before its last step: a host that failed and did not come back
  /// (kPeerLost), or servers that saw it diverge (kDiverged, with the worker's rank).
  std::optional<base::Error> failure;
  int restarts = 0;                  ///< after failures
  std::int64_t repeated_steps = 0;   ///< of all workers: lost in a failure, and done again
  std::int64_t simulated_steps = 0;  ///< of each worker, to the last one asked for
  std::optional<SkippedSteps> skipped;
  std::vector<CurvePoint> curve;  ///< with a learner
  std::vector<Span> timeline;
};

/// Runs the strategy's own code for every worker and server on a virtual clock. Equal options give
/// equal results to the last bit.
///
/// Not thread-safe, and once per process: the network simulator cannot be set up twice.
/// Errors: kInvalidArgument (cluster, workload or strategy do not fit), kUnsupported (second call).
base::Result<SimulationResult> simulate(const SimulationOptions& options);

}  // namespace gearshift::sim
