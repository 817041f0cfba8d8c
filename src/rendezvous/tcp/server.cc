#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <list>
#include <random>
#include <system_error>

#include "gearshift/base/log_throttle.h"
#include "gearshift/base/threads.h"
#include "gearshift/rendezvous/memory/factory.h"
#include "gearshift/rendezvous/tcp/factory.h"
#include "rendezvous/tcp/wire.h"

namespace gearshift::rendezvous::tcp {
namespace {

/// Clients at a time, and callers who have not proved the token yet: strangers cannot take the
/// places of the job's own processes.
constexpr std::size_t kMaxSessions = 4096;
constexpr std::ptrdiff_t kMaxUnproved = 256;
/// How soon a session that waits for a key notices that its client is gone or the server stops.
constexpr base::Duration kWaitSlice = std::chrono::milliseconds(250);

/// Never 0, which stands for none.
std::uint64_t random_number() {
  std::random_device device;
  return std::max<std::uint64_t>(1, (std::uint64_t{device()} << 32) | device());
}

/// The first of those who attended and are gone.
class Absence {
 public:
  explicit Absence(base::Scheduler& scheduler) : monitor_(scheduler.make_monitor()) {}
  void note(const std::string& name) {
    std::lock_guard<base::Monitor> lock(*monitor_);
    if (name_.empty()) name_ = name;
  }
  std::string name() const {
    std::lock_guard<base::Monitor> lock(*monitor_);
    return name_;
  }

 private:
  std::unique_ptr<base::Monitor> monitor_;
  std::string name_;
};

/// One connection, served by a task of its own.
class Session {
 public:
  Session(base::Scheduler& scheduler, base::Fd fd, std::string peer, std::shared_ptr<Store> store,
          Absence& absence, const transport::Hello& hello, const std::string& token,
          const std::atomic<bool>& stopping, base::LogThrottle& refusals)
      : scheduler_(scheduler),
        socket_(scheduler, std::move(fd)),
        peer_(std::move(peer)),
        store_(std::move(store)),
        absence_(absence),
        hello_(hello),
        token_(token),
        stopping_(stopping),
        refusals_(refusals) {}

  void start() {
    task_ = base::spawn_patiently(scheduler_, "store-client", [this] {
      run();
      done_ = true;
    });
  }
  void shutdown() { socket_.shutdown(); }
  bool done() const { return done_; }
  bool proved() const { return proved_; }

 private:
  void run() {
    const auto hello =
        transport::handshake_as_server(socket_, hello_, token_, scheduler_.after(kFrameTime));
    if (!hello) {
      if (!stopping_) refuse(hello.error());
      return;
    }
    proved_ = true;
    const base::Status end = serve_requests();
    if (end || stopping_) return;
    if (!attendee_.empty()) absence_.note(attendee_);
    GEARSHIFT_LOG_AT(kDebug, "rendezvous",
                     "store client " << peer_ << " left: " << end.error().message);
    if (end.error().code == base::ErrorCode::kProtocol) refuse(end.error());
  }

  void refuse(const base::Error& why) {
    refusals_.log(base::LogLevel::kWarn, "rendezvous",
                  "store refused " + peer_ + ": " + why.message);
    socket_.shutdown();
  }

  base::Status serve_requests() {
    while (!stopping_) {
      GEARSHIFT_RETURN_IF_ERROR(socket_.wait_readable(base::TimePoint::never()));
      GEARSHIFT_ASSIGN_OR_RETURN(const auto request,
                                 receive_frame(socket_, scheduler_.after(kFrameTime)));
      GEARSHIFT_ASSIGN_OR_RETURN(const base::Result<std::string> reply, handle(request));
      base::Writer out;
      if (reply) {
        out.put(std::uint8_t{0}).put(*reply);
      } else {
        out.put(static_cast<std::uint8_t>(static_cast<int>(reply.error().code) + 1));
        out.put(reply.error().message);
      }
      GEARSHIFT_RETURN_IF_ERROR(send_frame(socket_, out.view(), scheduler_.after(kFrameTime)));
    }
    return {};
  }

  /// The outer error ends the session, the inner one is told to the client.
  base::Result<base::Result<std::string>> handle(base::ConstBytes request) {
    using Reply = base::Result<std::string>;
    base::Reader in(request);
    const auto operation = in.get<Operation>();
    const std::string key = in.get_string();
    if (operation == Operation::kSet) {
      const std::string value = in.get_string();
      GEARSHIFT_RETURN_IF_ERROR(in.status("set"));
      const base::Status status = store_->set(key, value);
      return status ? Reply(std::string()) : Reply(status.error());
    }
    const auto number = in.get<std::int64_t>();
    GEARSHIFT_RETURN_IF_ERROR(in.status("request"));
    if (operation == Operation::kAbsentee) return Reply(absence_.name());
    if (operation == Operation::kAttend) {
      attendee_ = key;
      return Reply(std::string());
    }
    if (operation == Operation::kGet) return wait_for(key, number);
    if (operation == Operation::kAdd) {
      const auto sum = store_->add(key, number);
      return sum ? Reply(std::to_string(*sum)) : Reply(sum.error());
    }
    return base::Error(base::ErrorCode::kProtocol, "unknown operation");
  }

  base::Result<base::Result<std::string>> wait_for(const std::string& key, std::int64_t ms) {
    const base::Duration asked = std::chrono::milliseconds(std::clamp<std::int64_t>(
        ms, 0, std::chrono::duration_cast<std::chrono::milliseconds>(kGetSlice).count()));
    const base::TimePoint deadline = scheduler_.after(asked);
    while (true) {
      const base::TimePoint slice = std::min(deadline, scheduler_.after(kWaitSlice));
      auto value = store_->get(key, slice);
      if (value || value.error().code != base::ErrorCode::kTimeout || slice >= deadline) {
        return value;
      }
      if (stopping_ || socket_.hung_up()) {
        return base::Error(base::ErrorCode::kClosed, "gone while it waited for '" + key + "'");
      }
    }
  }

  base::Scheduler& scheduler_;
  Socket socket_;
  const std::string peer_;
  std::shared_ptr<Store> store_;
  Absence& absence_;
  const transport::Hello& hello_;
  const std::string& token_;
  const std::atomic<bool>& stopping_;
  base::LogThrottle& refusals_;
  std::string attendee_;  ///< who is at the other end, if it said so
  std::atomic<bool> proved_{false};
  std::atomic<bool> done_{false};
  std::unique_ptr<base::Task> task_;  // last: joined before the rest goes
};

class TcpServer final : public Server {
 public:
  TcpServer(base::Scheduler& scheduler, std::vector<base::Fd> listeners, base::Fd wake,
            std::string address, std::string token, bool lasting)
      : scheduler_(scheduler),
        hello_(store_hello(random_number(), lasting)),
        listeners_(std::move(listeners)),
        wake_(std::move(wake)),
        address_(std::move(address)),
        token_(std::move(token)),
        refusals_(scheduler),
        store_(memory::make(scheduler)),
        absence_(scheduler),
        acceptor_(base::spawn_patiently(scheduler, "store-accept", [this] { accept_all(); })) {}

  ~TcpServer() override {
    stopping_ = true;
    const std::uint64_t one = 1;
    // Can only fail when the counter is full, and then the acceptor is awake already.
    [[maybe_unused]] const auto written = ::write(wake_.get(), &one, sizeof one);
    acceptor_->join();
    // Children that were forked meanwhile have the sockets, too, and would keep the port.
    for (const base::Fd& listener : listeners_) ::shutdown(listener.get(), SHUT_RDWR);
  }

  std::string address() const override { return address_; }

 private:
  void accept_all() {
    std::vector<pollfd> waiting{{wake_.get(), POLLIN, 0}};
    for (const base::Fd& listener : listeners_) waiting.push_back({listener.get(), POLLIN, 0});
    while (!stopping_) {
      const int ready = ::poll(waiting.data(), waiting.size(), 1000);
      std::erase_if(sessions_, [](const auto& session) { return session->done(); });
      for (std::size_t i = 1; ready > 0 && i < waiting.size(); ++i) {
        if (waiting[i].revents != 0) accept_one(listeners_[i - 1]);
      }
    }
    for (const auto& session : sessions_) session->shutdown();
    sessions_.clear();
  }

  void accept_one(const base::Fd& listener) {
    Address peer;
    peer.size = sizeof peer.storage;
    base::Fd fd(::accept4(listener.get(), peer.get(), &peer.size, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!fd) {
      if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) return;
      refusals_.log(base::LogLevel::kWarn, "rendezvous",
                    io_error("store cannot accept", errno).message);
      // Out of descriptors, most likely: the caller stays queued, so do not spin on it.
      scheduler_.sleep_for(std::chrono::milliseconds(50));
      return;
    }
    const auto unproved = std::count_if(sessions_.begin(), sessions_.end(),
                                        [](const auto& session) { return !session->proved(); });
    if (sessions_.size() >= kMaxSessions || unproved >= kMaxUnproved) {
      refusals_.log(base::LogLevel::kWarn, "rendezvous",
                    "store refused " + text_of(peer) + ": too many connections");
      return;
    }
    auto session = std::make_unique<Session>(scheduler_, std::move(fd), text_of(peer), store_,
                                             absence_, hello_, token_, stopping_, refusals_);
    try {
      session->start();
    } catch (const std::system_error& error) {
      refusals_.log(base::LogLevel::kWarn, "rendezvous",
                    "store has no thread for " + text_of(peer) + ": " + error.what());
      return;
    }
    sessions_.push_back(std::move(session));
  }

  base::Scheduler& scheduler_;
  const transport::Hello hello_;
  const std::vector<base::Fd> listeners_;
  const base::Fd wake_;
  const std::string address_;
  const std::string token_;
  base::LogThrottle refusals_;
  std::shared_ptr<Store> store_;
  Absence absence_;
  std::atomic<bool> stopping_{false};
  std::list<std::unique_ptr<Session>> sessions_;  // the acceptor's own
  std::unique_ptr<base::Task> acceptor_;
};

}  // namespace

base::Result<std::unique_ptr<Server>> serve(base::Scheduler& scheduler, const std::string& host,
                                            int port, const std::string& token, bool lasting) {
  if (port < 0 || port > 65535) {
    return base::Error(base::ErrorCode::kInvalidArgument,
                       "port " + std::to_string(port) + " is not between 0 and 65535");
  }
  GEARSHIFT_ASSIGN_OR_RETURN(std::vector<base::Fd> listeners, listen_on(host, port));
  GEARSHIFT_ASSIGN_OR_RETURN(const Address bound, bound_address(listeners.front()));
  base::Fd wake(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake) return io_error("eventfd", errno);
  return std::unique_ptr<Server>(std::make_unique<TcpServer>(
      scheduler, std::move(listeners), std::move(wake), text_of(bound), token, lasting));
}

}  // namespace gearshift::rendezvous::tcp
