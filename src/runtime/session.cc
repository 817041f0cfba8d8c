#include "gearshift/runtime/session.h"

#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <exception>
#include <mutex>
#include <optional>
#include <system_error>
#include <utility>

#include "gearshift/base/log.h"
#include "gearshift/base/threads.h"
#include "gearshift/group/connect.h"
#include "gearshift/transport/shm/factory.h"
#include "gearshift/transport/tcp/factory.h"
#include "runtime/arrival.h"
#include "runtime/former.h"
#include "runtime/link_cache.h"
#include "runtime/place.h"

namespace gearshift::runtime {
namespace {

using base::Error;
using base::ErrorCode;

/// Processes start at different times (imports, slow disks, hands on several hosts); once they are
/// there, `timeout` alone rules.
constexpr int kStartTimeouts = 10;
constexpr std::uint16_t kWorkersChannel = 1;
static_assert(kWorkersChannel < group::kFirstUserChannel);

/// As far as this process may, and a job needs. A link to each rank takes several, and the soft
/// limit of many systems is kept low only for programs that use select(2). Beyond, children that
/// close whatever they may have would be busy for minutes.
void raise_descriptor_limit() {
  constexpr rlim_t kEnough = 1U << 16;
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  const rlim_t wanted = std::min(limit.rlim_max, kEnough);
  if (limit.rlim_cur >= wanted) return;
  limit.rlim_cur = wanted;
  ::setrlimit(RLIMIT_NOFILE, &limit);  // without it the job may still do
}

class SessionImpl final : public Session {
 public:
  explicit SessionImpl(SessionOptions options)
      : options_(std::move(options)), scheduler_(base::make_os_scheduler()) {
    options_.timeout = std::min(options_.timeout, SessionOptions::kLongestTimeout);
  }
  ~SessionImpl() override {
    if (!closed_ && monitor_) fail(Error(ErrorCode::kAborted, "the process ended early"));
    monitor_.reset();
    leave_rendezvous();
  }

  base::Status open() {
    GEARSHIFT_RETURN_IF_ERROR(options_.validate());
    base::set_log_identity("rank " + std::to_string(options_.rank));
    if (options_.world_size == 1) {
      GEARSHIFT_ASSIGN_OR_RETURN(auto alone,
                                 group::make_local_groups(*scheduler_, 1, options_.timeout));
      world_ = std::move(alone[0]);
    } else {
      GEARSHIFT_RETURN_IF_ERROR(connect());
      monitor_ = membership::Monitor::start(*world_);
      GEARSHIFT_RETURN_IF_ERROR(options_.interrupted ? watch_survey() : survey());
    }
    if (!is_server()) {
      std::vector<base::Rank> ranks;
      for (int r = 0; r < world_size(); ++r) ranks.emplace_back(r);
      workers_ = std::make_unique<group::Group>(world_->subgroup(ranks, kWorkersChannel));
    }
    return {};
  }

  base::Rank rank() const override { return base::Rank(options_.rank); }
  int world_size() const override { return options_.world_size - options_.servers; }
  int servers() const override { return options_.servers; }
  bool is_server() const override { return options_.rank >= world_size(); }
  base::Duration timeout() const override { return options_.timeout; }
  group::Group& workers() override { return *workers_; }
  membership::Monitor* monitor() override { return monitor_.get(); }
  Error explain(const Error& error) override { return monitor_ ? monitor_->explain(error) : error; }
  transport::Traffic traffic() const override { return world_->traffic(); }

  base::Result<std::unique_ptr<strategy::Replica>> distribute(
      strategy::ReplicaOptions options) override {
    if (is_server()) {
      return Error(ErrorCode::kInvalidArgument,
                   "this process is a dedicated server, which has no model of its own: where "
                   "Session::is_server() says so, call serve(), then close()");
    }
    GEARSHIFT_ASSIGN_OR_RETURN(const auto asked, SessionOptions::strategy_from_environment());
    options.model = free_model();
    auto replica = strategy::Replica::create(environment(), options);
    if (options.model < strategy::kMaxModels) models_[options.model] = replica.ok();
    if (replica.ok() && asked) mention_other_strategy(options.strategy, *asked);
    return replica;
  }

  base::Status serve() override {
    if (!is_server()) {
      return Error(ErrorCode::kInvalidArgument, "this process is a worker, not a server");
    }
    if (closed_ || std::exchange(served_, true)) {
      return Error(ErrorCode::kClosed, "this server has served: its workers will not come again");
    }
    return strategy::run_server(environment());
  }

  std::string hang_report() const override {
    if (monitor_) return monitor_->report_text();
    const auto progress = world_->progress().snapshot();
    return "world of one: step " + std::to_string(progress.step) + ", " + progress.operation;
  }

  void fail(const Error& error) override {
    if (monitor_) monitor_->fail(error);
  }

  base::Status close() override {
    if (std::exchange(closed_, true)) return {};
    if (!monitor_) return {};
    const std::optional<Error> failure = monitor_->failure();
    base::Status status = failure ? base::Status(*failure) : base::Status();
    if (!failure && !is_server()) status = strategy::release_servers(*world_, world_size());
    monitor_->stop();
    if (!failure)
      world_->close(
          scheduler_->after(std::min<base::Duration>(options_.timeout, std::chrono::seconds(5))));
    leave_rendezvous();
    return status;
  }

 private:
  strategy::Environment environment() {
    strategy::Environment e;
    e.workers = workers_.get();
    e.workers_count = world_size();
    e.world = world_.get();
    e.monitor = monitor_.get();
    e.on_stopped = [this](std::uint16_t model) { models_[model] = false; };
    return e;
  }

  /// Not one that was free a moment ago, if there is another: the longer its last message is gone,
  /// the better. kMaxModels if all are taken. Equal on all ranks, since they are taken and freed in
  /// one order.
  std::uint16_t free_model() {
    for (std::uint16_t n = 0; n < strategy::kMaxModels; ++n) {
      const std::uint16_t model = next_model_;
      next_model_ = static_cast<std::uint16_t>((next_model_ + 1) % strategy::kMaxModels);
      if (!models_[model]) return model;
    }
    return strategy::kMaxModels;
  }

  /// Once, on one rank: the program's choice stands, whatever the job was started with.
  void mention_other_strategy(const strategy::Strategy& chosen, const strategy::Strategy& asked) {
    const auto text = [](const strategy::Strategy& strategy) {
      const std::string whole = strategy.to_string();
      return whole.substr(0, whole.rfind(" total_steps="));
    };
    if (text(chosen) == text(asked) || rank().value != 0) return;
    if (std::exchange(mentioned_strategy_, true)) return;
    GEARSHIFT_LOG_AT(kWarn, "runtime",
                     "the program names its strategy itself and keeps it, "
                         << text(chosen) << "; the job was started with another (--strategy, a job "
                         << "file or GEARSHIFT_STRATEGY), which is for programs that name none: "
                         << text(asked));
  }

  base::Duration start_patience() const { return options_.timeout * kStartTimeouts; }

  base::Status connect();
  base::Status meet();
  base::Status survey();
  base::Status watch_survey();
  /// The next session of this rank may begin while others are still in this one.
  void leave_rendezvous() {
    if (place_.store && world_) Former::note(options_.rdzv, options_.rank, place_.number);
    place_ = {};
  }
  base::Result<std::vector<std::shared_ptr<transport::Transport>>> make_transports();
  bool wants(const std::string& transport) const {
    const auto& names = options_.transports;
    return names.empty() || std::find(names.begin(), names.end(), transport) != names.end();
  }

  transport::tcp::Options tcp_options() const {
    transport::tcp::Options tcp;
    tcp.host = place_.host;
    tcp.congestion_control = options_.congestion_control;
    return tcp;
  }

  SessionOptions options_;
  std::unique_ptr<base::Scheduler> scheduler_;
  Place place_;
  std::shared_ptr<transport::Router> router_;
  std::unique_ptr<group::Group> world_, workers_;
  std::unique_ptr<membership::Monitor> monitor_;
  std::uint16_t next_model_ = 0;
  std::array<bool, strategy::kMaxModels> models_{};  ///< that are distributed
  bool mentioned_strategy_ = false;
  bool served_ = false;
  bool closed_ = false;
  std::vector<std::string> processes_;  ///< rank by rank, where it runs: see link_cache.h
};

/// A store that has gone is no fault of this rank: whoever served it has.
base::Status SessionImpl::connect() {
  if (wants("tcp")) GEARSHIFT_RETURN_IF_ERROR(transport::tcp::validate(tcp_options()));
  GEARSHIFT_ASSIGN_OR_RETURN(place_, find_place(*scheduler_, options_, start_patience()));
  const base::Status met = meet();
  const bool in_files = options_.rdzv.rfind("file://", 0) == 0;
  if (met || met.error().code != ErrorCode::kIo || met.error().culprit >= 0 || in_files ||
      options_.rank == 0) {
    return met;
  }
  constexpr const char* kWho =
      "; rank 0, which serves it (unless `gearshift store` does), has ended, or stands still";
  return Error(ErrorCode::kPeerLost, met.error().message + kWho, 0);
}

base::Status SessionImpl::meet() {
  GEARSHIFT_ASSIGN_OR_RETURN(
      processes_,
      await_everybody(*scheduler_, *place_.store, place_.first_store.get(), options_,
                      start_patience(), process_identity(place_.host, options_.transports)));
  router_ = std::make_shared<transport::Router>(*scheduler_);
  GEARSHIFT_ASSIGN_OR_RETURN(auto transports, make_transports());
  group::ConnectOptions how;
  how.rank = rank();
  how.size = options_.world_size;
  how.timeout = options_.timeout;
  if (options_.interrupted) how.go_on = [this] { return options_.go_on(); };
  GEARSHIFT_ASSIGN_OR_RETURN(
      world_, group::connect(*scheduler_, router_, *place_.store, std::move(transports), how));
  return {};
}

base::Status SessionImpl::survey() {
  const LinkCache cache(processes_);
  collectives::SurveyOptions how{.measure = options_.measure};
  if (how.measure == collectives::Measure::kIfSeveralHosts) how.known = cache.load();
  const auto topology = collectives::survey(*world_, how);
  if (!topology) return explain(topology.error());
  const group::Topology& found = **topology;
  const bool fresh = found.speeds().measured && found.speeds() != how.known;
  if (fresh && found.members(found.host_of(options_.rank))[0] == options_.rank) {
    cache.store(found.speeds());
  }
  if (options_.rank == 0 && found.hosts() > 1) {
    GEARSHIFT_LOG_AT(kInfo, "runtime",
                     found.size() << " ranks on " << found.hosts() << " hosts; links "
                                  << (fresh                     ? "measured"
                                      : found.speeds().measured ? "known from an earlier job"
                                                                : "not measured"));
  }
  return {};
}

/// The same on a task of its own: this one asks meanwhile whether to go on. The links are broken,
/// and the others told, if not.
base::Status SessionImpl::watch_survey() {
  constexpr base::Duration kAsk = std::chrono::milliseconds(100);
  const std::unique_ptr<base::Monitor> monitor = scheduler_->make_monitor();
  std::optional<base::Status> done;
  std::exception_ptr thrown;
  const auto task = base::spawn_patiently(*scheduler_, "survey", [&] {
    base::Status status;
    try {
      status = survey();
    } catch (...) {
      thrown = std::current_exception();
    }
    const std::lock_guard<base::Monitor> lock(*monitor);
    done = std::move(status);
    monitor->notify_all();
  });
  base::Status wanted;
  std::unique_lock<base::Monitor> lock(*monitor);
  while (!done) {
    monitor->wait_until(scheduler_->after(kAsk));
    if (done || !wanted) continue;
    lock.unlock();
    wanted = options_.go_on();
    if (!wanted) monitor_->fail(wanted.error());
    lock.lock();
  }
  lock.unlock();
  if (thrown) std::rethrow_exception(thrown);
  return wanted ? *done : wanted;
}

base::Result<std::vector<std::shared_ptr<transport::Transport>>> SessionImpl::make_transports() {
  const transport::Identity identity{rank(), base::Generation(1), options_.token};
  std::vector<std::shared_ptr<transport::Transport>> made;
  if (wants("shm")) {
    auto shm = transport::shm::create(*scheduler_, router_, identity);
    if (shm) {
      made.push_back(std::move(*shm));
    } else {
      GEARSHIFT_LOG_AT(kInfo, "runtime", "no shared memory: " << shm.error().message);
    }
  }
  if (wants("tcp")) {
    GEARSHIFT_ASSIGN_OR_RETURN(
        auto transport, transport::tcp::create(*scheduler_, router_, identity, tcp_options()));
    made.push_back(std::move(transport));
  }
  if (made.empty()) {
    return Error(ErrorCode::kInvalidArgument,
                 "shared memory, the only transport that is allowed, does not work here (the log "
                 "says why): allow tcp as well");
  }
  return made;
}

}  // namespace

base::Result<std::unique_ptr<Session>> Session::create(const SessionOptions& options) {
  raise_descriptor_limit();
  auto session = std::make_unique<SessionImpl>(options);
  try {
    GEARSHIFT_RETURN_IF_ERROR(session->open());
  } catch (const std::system_error& error) {
    std::string why = std::string("cannot join the job: ") + error.what();
    const bool scarce = error.code() == std::errc::resource_unavailable_try_again;
    if (scarce) why += "; " + base::scarce_threads();
    return Error(ErrorCode::kIo, why);
  }
  return std::unique_ptr<Session>(std::move(session));
}

}  // namespace gearshift::runtime
