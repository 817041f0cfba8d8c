#include <algorithm>
#include <atomic>
#include <map>
#include <optional>
#include <utility>

#include "gearshift/base/log.h"
#include "gearshift/base/serial.h"
#include "gearshift/strategy/replica.h"
#include "strategy/channels.h"
#include "strategy/flow_limits.h"
#include "strategy/server_orders.h"

namespace gearshift::strategy {
namespace {

/// A dedicated server process: starts and stops shards as worker 0 orders.
class ServerHost {
 public:
  explicit ServerHost(const Environment& environment)
      : environment_(environment),
        world_(*environment.world),
        orders_(world_.router().mailbox(kServerHostService)),
        flow_(world_, environment.workers_count) {
    for (int r = environment.workers_count; r < world_.size(); ++r) servers_.emplace_back(r);
  }

  base::Status run() {
    const group::ProgressScope scope(world_.progress(), "serving");
    while (true) {
      base::Result<transport::Message> message = orders_->pop(next_look());
      if (const auto failure = failure_seen()) return *failure;
      if (!message) {
        if (message.error().code == base::ErrorCode::kTimeout) continue;
        return message.error();
      }
      base::Reader reader(message->head);
      const auto order = reader.get<ServerOrder>();
      if (order == ServerOrder::kBye) {
        if (++byes_ == environment_.workers_count) return {};
        continue;
      }
      const base::Status done = order == ServerOrder::kOpen
                                    ? open(std::as_const(message->body).view())
                                    : obey(order, reader);
      if (!done) {
        if (environment_.monitor != nullptr) environment_.monitor->fail(done.error());
        return done;
      }
    }
  }

 private:
  struct Hosted {
    std::shared_ptr<std::atomic<std::int64_t>> leave_after;
    std::unique_ptr<ps::Shard> shard;
  };

  /// When to ask the monitor again. Without one, a shard that fails closes the mailbox.
  base::TimePoint next_look() const {
    if (environment_.monitor == nullptr) return base::TimePoint::never();
    return world_.scheduler().after(std::chrono::milliseconds(100));
  }
  std::optional<base::Error> failure_seen() const {
    return environment_.monitor == nullptr ? std::nullopt : environment_.monitor->failure();
  }

  base::Status obey(ServerOrder order, base::Reader& reader) {
    const auto model = reader.get<std::uint16_t>();
    const auto step = order == ServerOrder::kLeaveAfter ? reader.get<std::int64_t>() : 0;
    GEARSHIFT_RETURN_IF_ERROR(reader.status("order to a dedicated server"));
    const auto hosted = shards_.find(model);
    if (hosted == shards_.end()) {
      return base::Error(base::ErrorCode::kProtocol,
                         "order for model " + std::to_string(model) + ", which is not served here");
    }
    if (order == ServerOrder::kLeaveAfter) {
      hosted->second.leave_after->store(step);
      return {};
    }
    hosted->second.shard->stop();
    shards_.erase(hosted);
    world_.router().forget(static_cast<std::uint16_t>(transport::kServerService + model));
    return {};
  }

  base::Status open(base::ConstBytes bytes) {
    GEARSHIFT_ASSIGN_OR_RETURN(OpenOrder order, unpack_open(bytes));
    ps::ShardOptions& o = order.options;
    const std::uint16_t wire = o.model;
    auto leave_after = std::make_shared<std::atomic<std::int64_t>>(0);
    o.on_commit = reporter(order, leave_after);
    o.on_failure = [monitor = environment_.monitor, orders = orders_](const base::Error& e) {
      if (monitor != nullptr) {
        monitor->fail(e);
      } else {
        orders->close(e);
      }
    };
    GEARSHIFT_ASSIGN_OR_RETURN(auto optimizer, ps::make_optimizer(o.optimizer, o.slices));
    // Worker 0 stores the real values before any worker may push.
    std::vector<base::Buffer> zeros;
    std::vector<base::ConstBytes> parameters;
    for (const ps::Slice& slice : o.slices) {
      zeros.push_back(order.phantom ? base::Buffer::phantom(slice.bytes)
                                    : base::Buffer(slice.bytes));
      base::zero(zeros.back().view());
      parameters.push_back(std::as_const(zeros.back()).view());
    }
    GEARSHIFT_ASSIGN_OR_RETURN(
        auto shard,
        ps::Shard::start(world_.with_channel(server_channel(order.model)),
                         world_.subgroup(servers_, shards_channel(order.model)), std::move(o),
                         parameters, std::move(optimizer), order.first_step));
    shards_[wire] = {std::move(leave_after), std::move(shard)};
    GEARSHIFT_LOG_AT(kInfo, "strategy", "serving model " << order.model);
    return {};
  }

  /// Notes each commit as this server's progress. If asked to, tells worker 0 about it, and the
  /// shard what worker 0 has decided since.
  std::function<std::optional<std::int64_t>(const ps::CommitInfo&)> reporter(
      const OpenOrder& order, std::shared_ptr<std::atomic<std::int64_t>> leave_after) {
    return [this, report = order.report_commits, model = order.model,
            leave_after](const ps::CommitInfo& info) -> std::optional<std::int64_t> {
      world_.progress().set_step(base::Step(info.highest_step));
      if (!report) return std::nullopt;
      const std::vector<std::byte> news = pack_news(info);
      // The head is copied at once; a broken link is the monitor's business.
      static_cast<void>(world_.link(base::Rank(0))
                            .send(transport::Tag(commit_news_service(model), 0, 0), news, {}));
      const std::int64_t wanted = leave_after->load();
      if (wanted == 0) return std::nullopt;
      // Workers may be past the step that worker 0 had in mind.
      return std::max(wanted, info.highest_step + 1);
    };
  }

  Environment environment_;
  group::Group& world_;
  const std::shared_ptr<transport::Mailbox> orders_;
  const FlowLimits flow_;
  std::vector<base::Rank> servers_;
  std::map<std::uint16_t, Hosted> shards_;
  int byes_ = 0;
};

}  // namespace

base::Status run_server(Environment environment) { return ServerHost(environment).run(); }

base::Status release_servers(group::Group& world, int workers) {
  for (int r = workers; r < world.size(); ++r) {
    base::Writer order;
    order.put(ServerOrder::kBye);
    GEARSHIFT_RETURN_IF_ERROR(world.link(base::Rank(r))
                                  .send(transport::Tag(kServerHostService, 0, 0), order.view(), {})
                                  .wait(world.deadline()));
  }
  return {};
}

}  // namespace gearshift::strategy
