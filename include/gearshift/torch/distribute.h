#pragma once

/// Distributed training of libtorch modules. Compiled by its users against their own libtorch (2.6
/// or newer); gearshift's libraries do not depend on it. docs/cpp.md has a whole program.

#include <torch/torch.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "gearshift/base/result.h"
#include "gearshift/runtime/session.h"
#include "gearshift/strategy/replica.h"
#include "gearshift/torch/detail/model.h"
#include "gearshift/torch/detail/optimizer.h"
#include "gearshift/torch/error.h"

namespace gearshift::torch {

/// Which parameters are copied to and from host memory that processes share, instead of being views
/// of it.
enum class Stage : unsigned char {
  kAuto,   ///< those on an accelerator
  kForce,  ///< all
};

struct Options {
  /// None: what the job was started with (SessionOptions::strategy_from_environment), or AllReduce.
  std::optional<strategy::Strategy> strategy{};
  /// Steps that the job will make, for switches at a fraction of them; 0: as the strategy says.
  std::int64_t total_steps = 0;
  /// Keep buffers (BatchNorm statistics) equal on all workers.
  bool broadcast_buffers = true;
  Stage stage = Stage::kAuto;
};

/// A module and its optimizer that train together with those of all other workers.
///
/// A step is
///
///     distributed->batch(n);              // the next backward is on n samples
///     optimizer.zero_grad();
///     loss.backward();                    // throws Failure
///     distributed->step(loss);            // instead of optimizer.step()
///
/// Gradients are exchanged while backward runs. When it returns they are, under All-Reduce, the
/// mean over all ranks' samples, so that clipping and inspection see what one process would see;
/// under a server they are this rank's until `step` has the servers apply them. Parameters without
/// a gradient on any rank are left alone. Backward may run several times before a step, each time
/// after a `batch` of its own: gradients add up as in one process. (Under a server a rank's sum
/// weighs as much as all samples in it, which is the same where ranks' batches have one size.)
///
/// Under local SGD nothing is exchanged while backward runs: gradients stay this rank's own, the
/// optimizer takes its step with them, and every so many steps `step` makes parameters and buffers
/// those of all ranks (StepReport::averaged). In between, and so in a checkpoint, they are this
/// rank's, as the optimizer's state always is.
///
/// The optimizer stays the program's: schedulers and assignments to its options take effect with
/// the next step, and must be made alike on all ranks. Under a server its state is with the
/// servers: `save_optimizer` fetches it. Parameters may be written to between steps, on all ranks
/// alike and in place, or by loading a checkpoint.
///
/// Errors: all calls return them; only backward() throws. One of kInvalidArgument or kUnsupported
/// changed nothing; after others the job is over: see Session::fail. Exceptions of libtorch's own
/// pass through.
/// Lifetime: session and optimizer must outlive it. Parameters, gradients and buffers keep their
/// memory when it has gone; call `stop` before, or other ranks wait.
/// Thread-safety: none; backward may run where libtorch likes.
class Distributed {
 public:
  ~Distributed() { remove_hooks(); }
  Distributed(const Distributed&) = delete;
  Distributed& operator=(const Distributed&) = delete;

  /// The next backward is on so many samples (or tokens): its weight in the average. To be said
  /// before each backward, on every rank, since libtorch does not tell what a module was called on;
  /// and for gradients that are made without one, before the step.
  base::Status batch(double samples);

  /// Ends a step: applies the optimizer, or has the servers apply it, and switches the strategy
  /// when that is due. Collective; under local SGD in the steps that average, and a step on no
  /// samples is left out there, since elsewhere it weighs nothing. `loss` is this rank's mean loss,
  /// averaged over the ranks for switch policies and `stats`; `epoch` tells policies that compare
  /// epochs where they are.
  base::Result<strategy::StepReport> step(const ::torch::Tensor& loss,
                                          std::optional<std::int64_t> epoch = {});
  base::Result<strategy::StepReport> step(double loss, std::optional<std::int64_t> epoch = {});
  /// A step without a loss.
  base::Result<strategy::StepReport> step();

  /// Between backward and step: clips the gradients by their global 2-norm as one process would,
  /// under any strategy; under asynchronous servers and local SGD each rank's own. Returns the norm
  /// before, under servers and local SGD of this rank's own gradient. On all ranks or none, but for
  /// local SGD.
  base::Result<double> clip_grad_norm(double max_norm);

  /// Collective: this rank has no more batches in this epoch. Takes part in the others' steps until
  /// all have joined; then parameters, buffers, optimizer and step are equal on all ranks (under
  /// local SGD the optimizer's settings, not its state). A scheduler that a rank has called less
  /// often than others stays behind: call it per epoch. Where one loop trains several modules (a
  /// GAN's two), gearshift::torch::join is for all of them. kUnsupported where ranks differ and the
  /// optimizer is of a class that keeps state, but saves none.
  base::Status join();

  /// The optimizer as `optimizer.save` and `optimizer.load` have it; under a server with the state
  /// that is there, under local SGD with the momentum of its outer optimizer, if there is one,
  /// which `optimizer.load` leaves out. Load on all ranks, the same.
  base::Status save_optimizer(::torch::serialize::OutputArchive& archive);
  base::Status load_optimizer(::torch::serialize::InputArchive& archive);

  /// Whether a parameter server is in force.
  bool uses_server() const { return replica_->uses_server(); }
  /// Whether local SGD is in force.
  bool is_local() const { return replica_->is_local(); }
  strategy::Stats stats() const { return replica_->stats(); }

  /// Collective: module and optimizer are on their own again. Under a server, and under local SGD,
  /// waits until nobody makes steps any more; all ranks then have the parameters that the servers
  /// have, or the mean, in which the steps since the last round count. Idempotent.
  base::Status stop();

 private:
  class Hook;
  friend base::Result<std::unique_ptr<Distributed>> distribute(runtime::Session& session,
                                                               ::torch::nn::Module& module,
                                                               ::torch::optim::Optimizer& optimizer,
                                                               Options options);
  friend base::Status join(const std::vector<Distributed*>& several);

  Distributed(runtime::Session& session, ::torch::optim::Optimizer& optimizer, Options options,
              detail::Model model);

  // detail/start.h
  base::Status open();
  base::Status check_alone() const;
  base::Status check_optimizer() const;
  base::Status check_groups() const;
  std::string fingerprint() const;
  void adopt_memory();
  void install_hooks();
  void remove_hooks();
  base::Status share_frozen();
  base::Status share_optimizer_state();
  enum class Take : unsigned char { kAll, kWhatIsSaved, kSettings };
  base::Status take_over_optimizer(base::Rank root, Take what);
  base::Status told(const base::Status& status) const;

  // detail/backward.h
  void on_arrival();
  void on_gradient(std::uint32_t index);
  void on_backward_end();
  void raise_if_failed(const base::Status& status);
  base::Status begin_backward();
  void count_samples();
  base::Status begin_round();
  base::Status end_round(bool settled);
  void collect();
  void take_in(std::uint32_t index);
  void hand_out(const std::vector<bool>& present);
  void keep_gradients();
  void note_gradients();
  bool gradients_were_dropped() const;
  bool gradients_were_replaced() const;
  bool is_own() const;

  // detail/step.h
  base::Result<strategy::StepReport> make_step(std::optional<double> loss,
                                               std::optional<std::int64_t> epoch);
  base::Status prepare_gradients();
  bool exchange_is_due();
  base::Status prepare_parameters();
  base::Status usable() const;
  base::Status check_frozen() const;
  base::Status check_parameters() const;
  base::Result<bool> bring_parameters();
  base::Status bring_buffers();
  void show_parameters();
  void show_buffers();
  void settle(bool averaged = true);
  base::Status take_writes();
  base::Status fetch_state();
  base::Status fetch_outer();
  base::Status store_outer(::torch::serialize::InputArchive& archive);
  std::vector<std::int64_t> versions_now() const;
  std::uint64_t hash_of_parameters();
  void check_first_step();
  void check_losses(bool has_loss, bool has_epoch);
  base::Status before_join();
  base::Status after_join(const strategy::Replica::JoinReport& report);

  /// Whether a phase of the strategy is of this kind.
  template <typename Kind>
  bool may_be() const {
    const auto& kind = options_.strategy->kind;
    const auto* s = std::get_if<strategy::StrategySwitch>(&kind);
    if (s == nullptr) return std::holds_alternative<Kind>(kind);
    return std::holds_alternative<Kind>(s->start) || std::holds_alternative<Kind>(s->then);
  }
  bool may_have_server() const { return may_be<strategy::ParameterServer>(); }
  bool may_be_local() const { return may_be<strategy::LocalSgd>(); }
  /// Whether a next phase may begin with the parameters that the core has.
  bool hands_over() const { return may_have_server() || may_be_local(); }
  /// Whether the optimizer's state goes to servers, or from one rank to all, at some time.
  bool hands_over_state() const {
    return may_have_server() || (may_be_local() && may_be<strategy::AllReduce>());
  }

  static constexpr const char* kOuter = "gearshift_outer_momentum";  ///< in an archive
  static constexpr const char* kOuterMomentum = "momentum_buffer";   ///< to the core

  runtime::Session& session_;
  ::torch::optim::Optimizer& optimizer_;
  const Options options_;           ///< with a strategy
  const detail::Rule* const rule_;  ///< null: servers have none like it
  detail::Model model_;
  std::vector<::torch::Tensor> parameters_;
  detail::StateBridge bridge_;
  std::unique_ptr<strategy::Replica> replica_;
  /// What hooks have of it, which its parameters own; null when they have nothing to do any more.
  std::shared_ptr<Distributed*> self_ = std::make_shared<Distributed*>(this);
  std::optional<base::Error> failed_;
  bool stopped_ = false;

  std::optional<double> next_;  ///< samples of the next backward
  double pending_ = 0;          ///< samples of the gradients that wait to be averaged or applied
  double latest_ = 0;           ///< samples of the latest round
  bool in_backward_ = false;
  std::vector<bool> present_;           ///< who has a gradient here, in the latest round
  std::vector<bool> shared_;            ///< who had one on some rank, under All-Reduce
  std::vector<bool> given_;             ///< whose hook has fired in the round under way
  std::vector<detail::Sight> seen_;     ///< the gradients after the latest round, if one's own
  std::vector<unsigned> arrivals_;      ///< hooks of gradients that are not accumulated yet
  const detail::Groups groups_;         ///< of the optimizer, when it became distributed
  int rounds_ = 0;                      ///< backward passes since the last step
  double clip_norm_ = 0;                ///< under a server, of the step to come
  std::vector<std::int64_t> versions_;  ///< under a server, of the parameters after the last step
  std::vector<::torch::Tensor> outer_;  ///< momentum of local SGD, as of the latest save or stop
  bool fresh_ = false;                  ///< under local SGD there was no batch since the last round
  std::optional<std::uint64_t> hash_of_first_;  ///< of the parameters after the first round
  bool first_step_done_ = false;
  bool losses_checked_ = false;
};

/// Makes a module and its optimizer train together with those of all other workers. Collective: all
/// go on from rank 0's parameters, buffers and optimizer state. Parameters that require a gradient
/// take part; they, and buffers, become views of memory that processes share. Move, cast and freeze
/// before. To unfreeze later, `stop` and distribute again: a module is distributed once at a time.
///
/// Under All-Reduce and local SGD the optimizer may be any but LBFGS. Servers, and switches to or
/// from local SGD, know SGD, Adam, AdamW and Adagrad, with all their options, which may differ
/// between param groups.
///
/// Errors: kInvalidArgument (module, optimizer or strategy cannot be), kUnsupported (an optimizer
/// or parameter that cannot take part; the text says why), kMismatch (ranks differ), and those of a
/// peer's failure.
inline base::Result<std::unique_ptr<Distributed>> distribute(runtime::Session& session,
                                                             ::torch::nn::Module& module,
                                                             ::torch::optim::Optimizer& optimizer,
                                                             Options options = {}) {
  GEARSHIFT_ASSIGN_OR_RETURN(detail::Model model,
                             detail::examine(module, optimizer, options.stage == Stage::kForce));
  if (!options.strategy) {
    GEARSHIFT_ASSIGN_OR_RETURN(auto asked, runtime::SessionOptions::strategy_from_environment());
    options.strategy = asked.value_or(strategy::Strategy());
  }
  if (options.total_steps > 0) options.strategy->total_steps = options.total_steps;
  if (!options.broadcast_buffers) model.buffers.clear();
  std::unique_ptr<Distributed> made(
      new Distributed(session, optimizer, std::move(options), std::move(model)));
  GEARSHIFT_RETURN_IF_ERROR(made->open());
  return made;
}

/// Collective: `Distributed::join` of all modules that one loop trains, in one order on all ranks.
/// A rank that is through takes part in the others' steps of each, in whatever order they make
/// them; in a join of one after the other it would not, and they would wait for it until the
/// timeout.
base::Status join(const std::vector<Distributed*>& several);

}  // namespace gearshift::torch

#include "gearshift/torch/detail/backward.h"
#include "gearshift/torch/detail/start.h"
#include "gearshift/torch/detail/step.h"
