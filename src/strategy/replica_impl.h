#pragma once

#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "gearshift/strategy/replica.h"
#include "strategy/comm_task.h"
#include "strategy/decider.h"
#include "strategy/local_phase.h"
#include "strategy/memory.h"
#include "strategy/reducer.h"
#include "strategy/server_phase.h"
#include "strategy/vigil.h"

namespace gearshift::strategy {

/// The Replica over a process's groups. Split over replica.cc (set-up), backward.cc (steps),
/// local_rounds.cc (LocalSgd) and hand_over.cc (switch and join).
class ReplicaImpl final : public Replica {
 public:
  ReplicaImpl(Environment environment, ReplicaOptions options, BucketPlan plan);
  ~ReplicaImpl() override;
  base::Status prepare();

  const BucketPlan& plan() const override { return plan_; }
  base::Bytes parameter(std::uint32_t index) override;
  base::Bytes gradient(std::uint32_t index) override;
  base::Bytes buffers() override { return memory_->buffers(); }
  std::shared_ptr<const void> memory() const override { return memory_; }
  base::Status start() override;
  bool uses_server() const override { return server_ != nullptr; }
  bool is_local() const override { return local_ != nullptr; }
  bool averages_next() const override;
  bool has_outer_optimizer() const override { return local_ != nullptr && !local_->is_plain(); }

  base::Status backward_begin(double samples) override;
  base::Status ready(std::uint32_t index) override;
  base::Result<std::vector<bool>> backward_end(const std::vector<bool>& present,
                                               bool settled) override;
  base::Result<StepReport> step(const StepInput& input) override;
  base::Result<JoinReport> join(const std::function<void()>& before) override;

  base::Result<std::vector<ps::StateEntry>> fetch_state() override;
  base::Status store_state(const std::vector<ps::StateEntry>& state) override;
  base::Result<std::vector<ps::StateEntry>> fetch_outer_state() override;
  base::Status store_outer_state(const std::vector<ps::StateEntry>& state) override;
  base::Status store_parameters() override;
  bool parameters_written() override;
  Stats stats() const override;
  base::Status finish() override;
  base::Status stop() override;

 private:
  /// What a rank comes to a meeting for while a server is in force.
  enum class Intent : std::uint64_t { kJoin = 1, kSwitch = 2, kFinish = 3, kStop = 4 };
  struct Meeting {
    bool all_join = false;
    base::Rank leader;       ///< of those that come to switch, one that made most steps
    int furthest = 0;        ///< a rank that made the most steps …
    std::int64_t steps = 0;  ///< … and how many
  };

  base::Bytes view_of(base::Bytes bucket, std::uint32_t index) const;
  /// Passes a status through; an error is explained by the monitor, told to the others, and kept.
  base::Status checked(base::Status status);
  /// `fatal`: ends the replica, also where the arguments are wrong.
  base::Error told(const base::Error& error, bool fatal = false);
  base::Status usable() const;
  std::vector<std::string> description() const;
  base::Status check_state(const std::vector<ps::StateEntry>& state) const;
  void make_reducer(group::Group group, const std::optional<AllReduce>& all_reduce);

  // backward.cc
  void open_round();
  void close(std::uint32_t bucket, const std::vector<bool>& present);
  base::Status stage(std::uint32_t bucket, bool settled);
  void absorb(const RoundResult& result, std::int64_t epoch);
  std::uint32_t digest_of_round() const;
  base::Error ranks_differ() const;
  base::Error hypers_differ() const;
  std::uint64_t hash_of_parameters() const;
  void remember_parameters();
  base::Error out_of_step(const RoundResult& round) const;
  base::Status check(const StepInput& input) const;
  base::Status stage_modified(const std::vector<bool>& modified);
  base::Result<double> clip_factor(const StepInput& input) const;
  base::Status check_hypers(const ps::HyperValues& hypers) const;
  base::Result<StepReport> step_all_reduce(const StepInput& input);
  void note_own_step(const StepInput& input);
  base::Result<StepReport> step_server(const StepInput& input);

  // local_rounds.cc
  base::Status open_local();
  base::Status close_local();
  bool ends_in_round(std::int64_t step) const;
  base::Result<StepReport> step_local(const StepInput& input);
  /// Of steps of one epoch, not yet told to others.
  struct Losses {
    double sum = 0, samples = 0;  ///< loss × samples, and the samples
    std::int64_t epoch = 0;
  };
  Losses pending_losses();
  base::Result<RoundResult> meet_for_round(bool joined, const Losses& losses);
  base::Result<RoundResult> average(bool joined, const Losses& losses,
                                    const std::function<void()>& before);
  base::Result<JoinReport> join_local(std::function<void()> before);
  base::Status take_local(base::Rank root);
  base::Status finish_local();
  void warn_of_steps_alone() const;

  // hand_over.cc
  base::Status open_phase();
  base::Status close_phase();
  base::Result<std::optional<SwitchRecord>> switch_if_due(bool voted);
  base::Result<SwitchRecord> hand_over(base::Rank leader);
  void warn_of_missed_switch() const;
  base::Result<SwitchRecord> switch_over(base::Rank leader);
  base::Status share_scales(base::Rank root);
  base::Status open_server();
  base::Status close_server();
  base::Status end_server();
  base::Status finish_server();
  base::Status last_updates(const std::string& label);
  base::Status pull_latest();
  base::Status stop_server();
  base::Status await_all(const std::string& label);
  base::Result<Meeting> meet(Intent intent);
  base::Duration patience(std::optional<Vigil>& vigil);
  base::Status sync_steps_after_server();
  base::Result<std::uint64_t> compare_replicas(const std::string& when);
  base::Result<base::Rank> furthest_rank();
  base::Status broadcast_model(base::Rank root);
  base::Status broadcast_buffers(base::Rank root);
  base::Result<JoinReport> join_all_reduce(std::function<void()> before);
  base::Result<JoinReport> join_server();
  /// The end of a join: whose steps are everybody's now.
  struct Level {
    JoinReport report;
    bool same = true;  ///< what was to be equal on all ranks is
  };
  base::Result<Level> level_steps(std::uint64_t hash);
  base::Result<Level> end_rounds(std::uint64_t hash);
  void warn_of_other_parameters(base::Rank root);
  base::Status take_history(base::Rank root);

  Environment environment_;
  ReplicaOptions options_;
  BucketPlan plan_;
  base::Scheduler& scheduler_;
  std::shared_ptr<BucketMemory> memory_;
  group::Group control_;
  Decider decider_;
  std::optional<base::Error> failed_;
  bool started_ = false;
  bool stopped_ = false;

  std::unique_ptr<Reducer> reducer_;
  std::unique_ptr<ServerPhase> server_;
  std::unique_ptr<LocalPhase> local_;
  std::unique_ptr<CommTask> comm_;  ///< ends before all else
  std::int64_t incarnations_ = 0;

  // The round (backward) in progress:
  bool round_open_ = false;
  double samples_ = 1;
  std::vector<std::uint32_t> missing_;    ///< per bucket: gradients not yet ready
  std::vector<std::vector<bool>> ready_;  ///< per bucket and entry
  std::vector<bool> is_ready_;            ///< per parameter
  std::vector<bool> present_;             ///< per parameter, of the latest round
  bool staged_ = false;   ///< server, LocalSgd: a backward has ended since the last step
  bool settled_ = false;  ///< server: its gradients will not be changed
  std::vector<std::uint64_t> staged_hashes_;      ///< per bucket: of the gradients sent
  std::optional<base::TimePoint> sending_since_;  ///< server: first bucket of the step under way

  std::atomic<std::int64_t> step_ = 0;
  int rounds_ = 0;  ///< of All-Reduce since the last step
  std::optional<std::uint64_t>
      parameters_hash_;        ///< as the servers sent them, where it is compared
  bool were_written_ = false;  ///< once, by the program
  std::int64_t epoch_ = 0;
  double pending_loss_ = 0, pending_samples_ = 0;
  bool ask_soon_ = false;  ///< LocalSgd: the next step asks the policy, in a round
  std::atomic<double> latest_loss_ = std::numeric_limits<double>::quiet_NaN();  ///< of all ranks
  ps::HyperValues latest_hypers_;    ///< All-Reduce: what the latest step was told
  std::uint32_t hypers_digest_ = 0;  ///< of these; 0: none given
  bool compares_next_ = false;       ///< All-Reduce: the next round compares parameters, too
  bool warned_of_others_ = false;    ///< of parameters that differed at the end of a join
  RoundResult latest_round_;
  std::int64_t checked_step_ = 0;  ///< up to here, known switch steps have been looked at
  std::int64_t leave_after_ = 0;
  bool skipped_ = false;  ///< the latest step, as its report says
  bool behind_ = false;   ///< step_ is that of others since a switch: this rank made fewer

  // What `stats` reads on other tasks; written by this one. The monitor guards switches_, and
  // server_ while it is set.
  std::atomic<double> exposed_seconds_ = 0, server_seconds_ = 0;
  std::atomic<double> staleness_sum_ = 0;
  std::atomic<std::int64_t> max_staleness_ = 0, pushes_ = 0;
  std::vector<SwitchRecord> switches_;
  const std::shared_ptr<BusyTime> busy_;
  const std::unique_ptr<base::Monitor> stats_monitor_;
};

}  // namespace gearshift::strategy
