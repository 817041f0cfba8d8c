#pragma once

#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "gearshift/ps/shard.h"
#include "ps/divergence.h"
#include "ps/gradient_sum.h"
#include "ps/lent_memory.h"
#include "ps/outbox.h"
#include "ps/state_codec.h"
#include "ps/turns.h"
#include "ps/worker.h"

namespace gearshift::ps {

/// What distinguishes the consistencies, as data.
struct Rules {
  bool one_of_each = false;  ///< an update takes one gradient of every active worker …
  int gradients = 1;         ///< … or so many from anyone
  int bound = -1;            ///< an answer waits while its worker leads by more; -1: never
  bool guards = true;        ///< stops on divergence
};
Rules rules_of(const Consistency& consistency);

/// An update whose slices are applied, and answered, one by one: each when the gradients of all its
/// workers are there. While slice i is applied, i + 1 is still on its way, and i - 1 on its way
/// back.
struct StreamedUpdate {
  struct Share {
    int rank = 0;
    double coefficient = 1;
  };
  std::vector<Share> shares{};  ///< whose gradients, in rank order
  std::vector<int> ranks;       ///< whose commits end with it
  HyperValues hypers{};
  std::size_t slices_left = 0;
};

/// Only start, stop and stats are called from outside; all else runs on the shard's task.
class ShardImpl final : public Shard {
 public:
  ShardImpl(group::Group group, group::Group shards, ShardOptions options,
            const std::vector<base::ConstBytes>& parameters, std::unique_ptr<Optimizer> optimizer,
            std::int64_t first_step);
  ~ShardImpl() override;
  void launch();
  void stop() override;
  ShardStats stats() const override;

 private:
  /// A request that came from rank `from` of the group.
  struct Request {
    int from = 0;
    Head head;
    base::Buffer body;
  };
  /// State that somebody stores, as far as it is here.
  struct Storing {
    std::optional<StateDescription> description;
    std::map<std::uint32_t, base::Buffer> data;  ///< by slice
  };

  // shard.cc: the task and the simple requests.
  void forget_old_gradients();
  void run();
  void fail(const base::Error& error);
  base::Status handle(transport::Message message);
  base::Status dispatch(Request& request);
  base::Result<Worker*> worker(const Request& request);
  base::Status check_slice(const Request& request) const;
  base::Status stage(Request& request);
  base::Status commit(Request& request);
  base::Status check_commit(const Worker& worker, const CommitRecord& record) const;
  base::Status pull(Request& request);
  void widen(base::Buffer& body) const;
  base::Status leave(Request& request);
  base::Status enter(Request& request);
  base::Status flush(Request& request);
  void answer(int to, std::uint32_t request, const ReplyWire& reply);
  void answer_slice(int to, std::uint32_t request, std::size_t slice);
  transport::Request send_slice(const Turns::Answer& answer);
  void send_in_turn();
  void answer_with_parameters(int to, std::uint32_t request, const ReplyWire& reply);

  /// Tells the clock what was done to so many bytes.
  void worked(base::Work kind, std::size_t bytes) const {
    if (bytes > 0) group_.scheduler().work(kind, bytes);
  }

  // shard_update.cc: commits on their way into the parameters.
  base::Status settle();
  base::Status settle_together();
  base::Status accept_all(const std::vector<int>& ranks);
  std::optional<base::Error> clipped_otherwise(int first, int rank) const;
  std::optional<base::Error> set_otherwise(int first, int rank) const;
  base::Status apply_whole(const StreamedUpdate& together);
  base::Status accept(int rank);
  base::Status take_in(int rank);
  void choose_weight_unit(double samples);
  base::Status check_finite(int rank, const std::vector<base::Buffer>& gradient) const;
  base::Status check_finite(int rank, std::size_t slice, base::ConstBytes gradient) const;
  base::Status apply_gathered();
  base::Status update(const HyperValues& hypers, double clip_norm);
  void collect(std::uint32_t slice, std::vector<SegmentUpdate>& updates);
  base::Status apply(const std::vector<SegmentUpdate>& updates, const HyperValues& hypers);
  void count_update();
  base::Result<double> clip_factor(double clip_norm);
  void close_commits(const std::vector<int>& ranks);
  void count(int rank);
  void note_losses(const std::vector<int>& ranks);
  void announce(int rank);
  void answer_due();
  std::int64_t slowest_step(int but = -1) const;
  base::Error diverged(int rank, const std::string& what) const;
  /// `what`, by which commit, and what helps.
  std::string what_happened(int rank, const std::string& what) const;
  base::Status judge_loss(int rank, double loss);

  // shard_stream.cc: updates slice by slice.
  std::int64_t updates_begun() const { return version_ + streams_; }
  bool streams(const CommitRecord& record) const;
  bool may_begin(const Worker& worker) const;
  base::Status begin_stream(StreamedUpdate update);
  base::Status advance(const std::shared_ptr<StreamedUpdate>& update, std::size_t slice);
  void combine(const StreamedUpdate& update, std::size_t slice);
  base::Status apply_slice(const StreamedUpdate& update, std::size_t slice);
  base::Status finish_stream(const StreamedUpdate& update);

  // shard_state.cc: optimizer state and parameters, out and in.
  base::Status fetch_state(Request& request);
  base::Status store_state(Request& request);
  base::Status store_state_data(Request& request);
  base::Status finish_storing(const Request& request);
  base::Status write_state(const Storing& storing);
  base::Status store_parameters(Request& request);

  const std::uint64_t id_;  ///< tells this shard's stop message from one to its predecessor
  group::Group group_;
  group::Group shards_;
  const ShardOptions options_;
  const Rules rules_;
  std::vector<int> rank_of_peer_;  ///< by world rank, as messages name it: rank of the group, or -1
  std::shared_ptr<transport::Mailbox> mailbox_;

  LentMemory lent_;
  ParameterStore parameters_;
  std::unique_ptr<Optimizer> optimizer_;
  Outbox outbox_;
  std::optional<Turns> turns_;
  std::vector<Worker> workers_;
  int due_ = 0;               ///< commits that are accepted and not answered
  std::int64_t version_ = 0;  ///< updates made
  std::int64_t streams_ = 0;  ///< updates begun and not made
  std::int64_t highest_step_ = 0;
  std::int64_t leave_after_ = 0;
  double mean_loss_ = std::numeric_limits<double>::quiet_NaN();  ///< see Reply::loss
  DivergenceGuard divergence_;

  GradientSum sum_;
  const bool averages_as_it_goes_;  ///< a sum of several gradients may overflow, their mean not
  int gathered_ = 0;                ///< gradients in sum_
  double weight_unit_ = 0;          ///< samples that have weight 1 in sum_
  double gathered_samples_ = 0, most_samples_ = 0;
  HyperValues gathered_hypers_;

  std::map<std::pair<int, std::uint32_t>, Storing> storing_;
  std::map<std::pair<int, std::uint32_t>, std::size_t> stored_slices_;

  std::unique_ptr<base::Monitor> stop_monitor_;
  bool stopping_ = false;
  std::unique_ptr<base::Monitor> stats_monitor_;
  ShardStats stats_;
  double staleness_sum_ = 0;
  std::unique_ptr<base::Task> task_;
};

}  // namespace gearshift::ps
