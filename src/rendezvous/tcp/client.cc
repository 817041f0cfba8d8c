#include <algorithm>
#include <atomic>
#include <mutex>
#include <optional>

#include "gearshift/rendezvous/tcp/factory.h"
#include "rendezvous/tcp/wire.h"

namespace gearshift::rendezvous::tcp {
namespace {

constexpr base::Duration kFirstRetry = std::chrono::milliseconds(20);
constexpr base::Duration kLastRetry = std::chrono::milliseconds(500);

/// Keeps one connection for each caller that is inside at the same time, so that a waiting `get`
/// does not hold up the `set` that it waits for.
class TcpStore final : public Store {
 public:
  /// `former`: a server that is waited out; 0 for none. `answer_time`: how long the server's answer
  /// may take beyond what it was asked to wait.
  TcpStore(base::Scheduler& scheduler, std::string host, int port, std::string token,
           std::uint64_t former, base::Duration answer_time, GoOn go_on)
      : scheduler_(scheduler),
        host_(std::move(host)),
        port_(port),
        token_(std::move(token)),
        former_(former),
        answer_time_(answer_time),
        go_on_(std::move(go_on)),
        monitor_(scheduler.make_monitor()) {}

  /// Dials until it works. What a retry cannot cure (token, version) is returned at once.
  base::Status open(base::TimePoint deadline) {
    base::Duration pause = kFirstRetry;
    while (true) {
      auto socket = dial_and_prove(std::min(deadline, scheduler_.after(kFrameTime)));
      if (socket) {
        give_back(std::move(*socket));
        return {};
      }
      const base::ErrorCode code = socket.error().code;
      if (code == base::ErrorCode::kUnauthenticated || code == base::ErrorCode::kMismatch ||
          code == base::ErrorCode::kUnsupported || code == base::ErrorCode::kAborted) {
        return socket.error().within("rendezvous store at " + address());
      }
      if (scheduler_.after(pause) >= deadline) {
        return base::Error(
            base::ErrorCode::kTimeout,
            "no rendezvous store answers at " + address() + ": " + socket.error().message);
      }
      scheduler_.sleep_for(pause);
      if (go_on_) GEARSHIFT_RETURN_IF_ERROR(go_on_());
      pause = std::min(pause * 2, kLastRetry);
    }
  }

  base::Status set(const std::string& key, const std::string& value) override {
    GEARSHIFT_RETURN_IF_ERROR(check_key(key));
    GEARSHIFT_RETURN_IF_ERROR(check_value(key, value));
    base::Writer request;
    request.put(Operation::kSet).put(key).put(value);
    const auto reply = ask(request.view(), base::Duration::zero());
    return reply ? base::Status() : base::Status(reply.error());
  }

  base::Result<std::string> get(const std::string& key, base::TimePoint deadline) override {
    GEARSHIFT_RETURN_IF_ERROR(check_key(key));
    while (true) {
      const base::Duration rest = deadline - scheduler_.now();
      const base::Duration wait = std::clamp(rest, base::Duration::zero(), kGetSlice);
      base::Writer request;
      request.put(Operation::kGet).put(key);
      request.put(std::int64_t{std::chrono::ceil<std::chrono::milliseconds>(wait).count()});
      GEARSHIFT_ASSIGN_OR_RETURN(auto reply, ask_raw(request.view(), wait));
      if (reply || reply.error().code != base::ErrorCode::kTimeout || rest <= kGetSlice) {
        return reply;
      }
    }
  }

  base::Result<std::int64_t> add(const std::string& key, std::int64_t amount) override {
    GEARSHIFT_RETURN_IF_ERROR(check_key(key));
    GEARSHIFT_ASSIGN_OR_RETURN(const std::string sum, ask_simply(Operation::kAdd, key, amount));
    return add_to_counter(key, sum, 0);
  }

  /// The server notices when the connection that said so ends; it is kept, like all, until an
  /// error on it, which is the end of the whole store for its user.
  base::Status attend(const std::string& name) override {
    GEARSHIFT_RETURN_IF_ERROR(check_key(name));
    const auto reply = ask_simply(Operation::kAttend, name, 0);
    return reply ? base::Status() : base::Status(reply.error());
  }

  base::Result<std::string> absentee() override { return ask_simply(Operation::kAbsentee, "", 0); }

  /// Of a connection's near end. After `open`, and before any use.
  base::Result<std::string> own_address() {
    std::lock_guard<base::Monitor> lock(*monitor_);
    return idle_.front().own_address();
  }

  /// The server's number. After `open`.
  std::uint64_t server() const { return server_; }

  std::string address() const override { return "tcp://" + join_host_port(host_, port_); }

 private:
  using Reply = base::Result<std::string>;

  base::Result<Socket> dial_and_prove(base::TimePoint deadline) {
    GEARSHIFT_ASSIGN_OR_RETURN(Socket socket, dial(scheduler_, host_, port_, deadline, go_on_));
    GEARSHIFT_ASSIGN_OR_RETURN(
        const transport::Hello server,
        transport::handshake_as_client(socket, store_hello(), token_, deadline));
    if (former_ != 0 && server.link == former_ && server.stream != 0) {
      return base::Error(base::ErrorCode::kUnsupported,
                         "it was started on its own and serves one session, which this rank has "
                         "left; where rank 0 serves the rendezvous, a job can be joined again");
    }
    if (former_ != 0 && server.link == former_) {
      return base::Error(base::ErrorCode::kIo,
                         "the one there is of a session that this rank has left");
    }
    server_ = server.link;
    return socket;
  }

  Reply ask_simply(Operation operation, const std::string& key, std::int64_t number) {
    base::Writer request;
    request.put(operation).put(key).put(number);
    return ask(request.view(), base::Duration::zero());
  }

  Reply ask(base::ConstBytes request, base::Duration wait) {
    GEARSHIFT_ASSIGN_OR_RETURN(auto reply, ask_raw(request, wait));
    return reply;
  }

  /// The outer error is the connection's, the inner one the server's.
  base::Result<Reply> ask_raw(base::ConstBytes request, base::Duration wait) {
    auto reply = exchange(request, scheduler_.after(wait + answer_time_));
    if (reply || reply.error().code == base::ErrorCode::kAborted) return reply;
    // A server that is gone or frozen must not look like a key that nobody has set yet.
    return base::Error(base::ErrorCode::kIo,
                       "lost the rendezvous store at " + address() + ": " + reply.error().message);
  }

  base::Result<Reply> exchange(base::ConstBytes request, base::TimePoint deadline) {
    std::optional<Socket> socket = take_idle();
    if (!socket) {
      GEARSHIFT_ASSIGN_OR_RETURN(Socket fresh, dial_and_prove(deadline));
      socket = std::move(fresh);
    }
    GEARSHIFT_RETURN_IF_ERROR(send_frame(*socket, request, deadline));
    GEARSHIFT_ASSIGN_OR_RETURN(const auto frame, receive_frame(*socket, deadline));
    base::Reader in(frame);
    const auto code = in.get<std::uint8_t>();
    std::string text = in.get_string();
    GEARSHIFT_RETURN_IF_ERROR(in.status("reply of the store"));
    give_back(std::move(*socket));
    if (code == 0) return Reply(std::move(text));
    if (code - 1 > static_cast<int>(base::ErrorCode::kClosed)) {
      return base::Error(base::ErrorCode::kProtocol, "unknown error code: " + text);
    }
    return Reply(base::Error(static_cast<base::ErrorCode>(code - 1), std::move(text)));
  }

  std::optional<Socket> take_idle() {
    std::lock_guard<base::Monitor> lock(*monitor_);
    if (idle_.empty()) return std::nullopt;
    Socket socket = std::move(idle_.back());
    idle_.pop_back();
    return socket;
  }
  void give_back(Socket socket) {
    std::lock_guard<base::Monitor> lock(*monitor_);
    idle_.push_back(std::move(socket));
  }

  base::Scheduler& scheduler_;
  const std::string host_;
  const int port_;
  const std::string token_;
  const std::uint64_t former_;
  const base::Duration answer_time_;
  const GoOn go_on_;
  std::atomic<std::uint64_t> server_{0};
  std::unique_ptr<base::Monitor> monitor_;
  std::vector<Socket> idle_;
};

}  // namespace

base::Result<std::unique_ptr<Store>> connect(base::Scheduler& scheduler, const std::string& host,
                                             int port, const std::string& token,
                                             base::TimePoint deadline, std::string* own_address,
                                             std::uint64_t* server, base::Duration answer_time,
                                             std::function<base::Status()> go_on) {
  if (port < 1 || port > 65535) {
    return base::Error(base::ErrorCode::kInvalidArgument,
                       "port " + std::to_string(port) + " is not between 1 and 65535");
  }
  auto store =
      std::make_unique<TcpStore>(scheduler, host, port, token, server == nullptr ? 0 : *server,
                                 std::max(answer_time, kLeastAnswerTime), std::move(go_on));
  GEARSHIFT_RETURN_IF_ERROR(store->open(deadline));
  if (server != nullptr) *server = store->server();
  if (own_address != nullptr) {
    GEARSHIFT_ASSIGN_OR_RETURN(*own_address, store->own_address());
  }
  return std::unique_ptr<Store>(std::move(store));
}

Listener find_listener(base::Scheduler& scheduler, const std::string& host, int port,
                       base::TimePoint deadline) {
  auto socket = dial(scheduler, host, port, deadline);
  if (!socket) return Listener::kNone;
  (void)socket->wait_readable(deadline);
  return socket->hung_up() ? Listener::kHangsUp : Listener::kSilent;
}

}  // namespace gearshift::rendezvous::tcp
