#include "strategy/server_phase.h"

#include <algorithm>
#include <cmath>

#include "gearshift/base/serial.h"
#include "gearshift/collectives/collectives.h"
#include "strategy/bucket_size.h"
#include "strategy/channels.h"
#include "strategy/server_orders.h"
#include "strategy/vigil.h"

namespace gearshift::strategy {
namespace {

/// Of a shard, about: a reply has a number of 16 bits for each.
constexpr std::size_t kMostSlices = 30000;

double lr_factor(const ParameterServer& config, int workers) {
  const double n = workers;
  switch (config.lr_scaling) {
    case LrScaling::kKeep:
      return 1;
    case LrScaling::kDivide:
      return 1 / n;
    case LrScaling::kSqrt:
      return 1 / std::sqrt(n);
    case LrScaling::kAuto:
      break;
  }
  const auto kind = config.consistency.kind;
  const bool every_push_counts =
      kind == ps::Consistency::Kind::kAsp || kind == ps::Consistency::Kind::kSsp;
  return every_push_counts ? 1 / n : 1;
}

/// Copies the worker's optimizer state into the shard's, segment by segment. Returns how many
/// bytes.
base::Result<std::size_t> adopt_state(ps::Optimizer& optimizer,
                                      const std::vector<ps::Slice>& slices,
                                      const std::vector<ps::StateEntry>& state) {
  std::size_t copied = 0;
  if (state.empty()) return copied;
  for (std::uint32_t i = 0; i < slices.size(); ++i) {
    const std::size_t width = base::size_of(slices[i].dtype);
    for (std::uint32_t j = 0; j < slices[i].segments.size(); ++j) {
      const ps::Segment& segment = slices[i].segments[j];
      const ps::StateEntry& entry = state[segment.parameter];
      for (const auto& [name, tensor] : entry.tensors) {
        const base::ConstBytes part =
            base::slice(tensor.view(), segment.parameter_offset * width, segment.size * width);
        GEARSHIFT_RETURN_IF_ERROR(optimizer.write_tensor(i, j, name, part));
        copied += part.size();
      }
      for (const auto& [name, value] : entry.scalars) {
        GEARSHIFT_RETURN_IF_ERROR(optimizer.write_scalar(i, j, name, value));
      }
    }
  }
  return copied;
}

/// What each server owns. The layout that a thread made last is at hand: all workers of a
/// simulation have the same.
std::shared_ptr<const ps::Layout> layout_for(const BucketPlan& plan,
                                             const std::vector<base::Rank>& servers, int workers,
                                             const std::shared_ptr<const group::Topology>& world,
                                             Compression compression) {
  struct Known {
    BucketPlan plan;
    std::vector<base::Rank> servers;
    int workers = 0;
    std::size_t slice_bytes = 0;
    std::weak_ptr<const group::Topology> world;
    std::weak_ptr<const ps::Layout> layout;
  };
  thread_local Known known;
  const bool dedicated = servers.front().value >= workers;
  const std::size_t slice_bytes = std::max(
      dedicated ? passed_slice_bytes(compression) : kSliceBytes, plan.total_bytes() / kMostSlices);
  if (auto layout = known.layout.lock(); layout && known.world.lock() == world &&
                                         known.servers == servers && known.workers == workers &&
                                         known.slice_bytes == slice_bytes && known.plan == plan) {
    return layout;
  }
  const std::vector<std::uint32_t> weights =
      world ? shard_weights(*world, servers, workers) : std::vector<std::uint32_t>{};
  auto layout = std::make_shared<const ps::Layout>(
      make_layout(plan, static_cast<int>(servers.size()), slice_bytes, weights));
  known = {plan, servers, workers, slice_bytes, world, layout};
  return layout;
}

int most_workers_on_a_host(const group::Topology* world, int workers) {
  if (world == nullptr) return 1;
  std::vector<int> on(static_cast<std::size_t>(world->hosts()), 0);
  for (int r = 0; r < workers; ++r) ++on[static_cast<std::size_t>(world->host_of(r))];
  return *std::max_element(on.begin(), on.end());
}

base::Status send_order(group::Group& world, base::Rank server, base::ConstBytes order,
                        base::ConstBytes body = {}) {
  return world.link(server)
      .send(transport::Tag(kServerHostService, 0, 0), order, body)
      .wait(world.deadline());
}

}  // namespace

ServerPhase::ServerPhase(const Environment& environment, const BucketPlan& plan,
                         BucketMemory& memory, ServerPhaseOptions options)
    : environment_(environment),
      plan_(plan),
      memory_(memory),
      options_(std::move(options)),
      wire_model_(wire_model(options_.model, options_.incarnation)),
      dedicated_(environment.world->size() > environment.workers->size()) {
  const int workers = environment.workers->size();
  const int shards = dedicated_ ? environment.world->size() - workers
                                : (options_.config.shards > 0 ? options_.config.shards : workers);
  for (int k = 0; k < shards; ++k) servers_.emplace_back(dedicated_ ? workers + k : k);
  // News of an earlier model of this number that came when it had gone.
  if (options_.incarnation == 0) {
    environment.world->router().forget(commit_news_service(options_.model));
  }
  layout_ = layout_for(plan, servers_, environment.workers_count, environment.world->topology(),
                       options_.config.compression);
  client_ = std::make_unique<ps::Client>(
      environment.world->with_channel(server_channel(options_.model)),
      ps::ClientOptions{wire_model_, layout_, servers_, options_.phantom, memory_.gradient_region(),
                        options_.config.compression == Compression::kBf16});
}

ServerPhase::~ServerPhase() = default;

base::Result<std::unique_ptr<ServerPhase>> ServerPhase::open(
    const Environment& environment, const BucketPlan& plan, BucketMemory& memory,
    group::Group& control, ServerPhaseOptions options, const std::vector<ps::StateEntry>& state) {
  std::unique_ptr<ServerPhase> phase(
      new ServerPhase(environment, plan, memory, std::move(options)));
  GEARSHIFT_RETURN_IF_ERROR(phase->dedicated_ ? phase->start_dedicated(state)
                                              : phase->start_local_shard(state));
  // Nobody pushes before every shard has its state, which worker 0 may bring over a slow link.
  collectives::Options waiting;
  waiting.label = "start of parameter servers";
  waiting.timeout = control.timeout() * kPatientTimeouts;
  GEARSHIFT_RETURN_IF_ERROR(collectives::barrier(control, waiting));
  if (phase->dedicated_) {
    phase->flow_.emplace(*environment.world, environment.workers_count);
  } else {
    phase->flow_.emplace(*environment.world);
  }
  return phase;
}

ps::ShardOptions ServerPhase::shard_options(int index) const {
  ps::ShardOptions o;
  o.model = wire_model_;
  o.index = index;
  o.workers = environment_.workers->size();
  if (dedicated_) {
    o.at_once = static_cast<int>(servers_.size()) *
                most_workers_on_a_host(environment_.world->topology().get(), o.workers);
  }
  o.slices = layout_->shards[static_cast<std::size_t>(index)];
  o.consistency = options_.config.consistency;
  o.optimizer = options_.optimizer;
  o.lr_factor = lr_factor(options_.config, o.workers);
  o.clip_norm = o.consistency.is_synchronous() ? options_.config.clip_norm : 0;
  o.divergence_factor = options_.config.divergence_factor;
  return o;
}

base::Status ServerPhase::start_local_shard(const std::vector<ps::StateEntry>& state) {
  const base::Rank self = environment_.world->rank();
  if (self.value >= static_cast<int>(servers_.size())) return {};
  ps::ShardOptions o = shard_options(self.value);
  if (self.value == 0) o.on_commit = options_.on_commit;
  o.on_failure = options_.on_failure;
  GEARSHIFT_ASSIGN_OR_RETURN(std::unique_ptr<ps::Optimizer> optimizer,
                             ps::make_optimizer(o.optimizer, o.slices));
  GEARSHIFT_ASSIGN_OR_RETURN(std::size_t copied, adopt_state(*optimizer, o.slices, state));
  std::vector<base::ConstBytes> parameters;
  for (const ps::Slice& slice : o.slices) {
    parameters.push_back(
        base::slice(memory_.parameters(slice.bucket), slice.bucket_offset, slice.bytes));
    copied += slice.bytes;
  }
  GEARSHIFT_ASSIGN_OR_RETURN(
      shard_,
      ps::Shard::start(environment_.world->with_channel(server_channel(options_.model)),
                       environment_.world->subgroup(servers_, shards_channel(options_.model)),
                       std::move(o), parameters, std::move(optimizer), options_.first_step));
  if (copied > 0) environment_.world->scheduler().work(base::Work::kCopy, copied);
  return {};
}

base::Status ServerPhase::start_dedicated(const std::vector<ps::StateEntry>& state) {
  group::Group& world = *environment_.world;
  if (world.rank().value != 0) return {};
  for (std::size_t k = 0; k < servers_.size(); ++k) {
    OpenOrder order;
    order.model = options_.model;
    order.first_step = options_.first_step;
    order.report_commits = k == 0 && options_.on_commit != nullptr;
    order.phantom = options_.phantom;
    order.options = shard_options(static_cast<int>(k));
    // The layout of a large model is more than a head may be.
    base::Writer open;
    open.put(ServerOrder::kOpen);
    GEARSHIFT_RETURN_IF_ERROR(send_order(world, servers_[k], open.view(), pack_open(order)));
  }
  std::vector<base::ConstBytes> buckets(memory_.all_parameters().begin(),
                                        memory_.all_parameters().end());
  GEARSHIFT_RETURN_IF_ERROR(client_->store_parameters(buckets));
  return state.empty() ? base::Status() : client_->store_state(state);
}

base::Status ServerPhase::handle_news() {
  if (!dedicated_ || environment_.world->rank().value != 0 || !options_.on_commit) return {};
  const auto mailbox = environment_.world->router().mailbox(commit_news_service(options_.model));
  while (std::optional<transport::Message> message = mailbox->try_pop()) {
    GEARSHIFT_ASSIGN_OR_RETURN(const ps::CommitInfo info, unpack_news(message->head));
    const std::optional<std::int64_t> leave_after = options_.on_commit(info);
    if (!leave_after) continue;
    base::Writer order;
    order.put(ServerOrder::kLeaveAfter).put(wire_model_).put(*leave_after);
    GEARSHIFT_RETURN_IF_ERROR(send_order(*environment_.world, servers_[0], order.view()));
  }
  return {};
}

base::Status ServerPhase::close() {
  flow_.reset();
  if (shard_) {
    shard_->stop();
    shard_.reset();
    environment_.world->router().forget(
        static_cast<std::uint16_t>(transport::kServerService + wire_model_));
  }
  if (!dedicated_ || environment_.world->rank().value != 0) return {};
  for (const base::Rank server : servers_) {
    base::Writer order;
    order.put(ServerOrder::kClose).put(wire_model_);
    GEARSHIFT_RETURN_IF_ERROR(send_order(*environment_.world, server, order.view()));
  }
  return {};
}

std::optional<ps::ShardStats> ServerPhase::shard_stats() const {
  if (!shard_) return std::nullopt;
  return shard_->stats();
}

}  // namespace gearshift::strategy
