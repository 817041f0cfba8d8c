#include "runtime/place.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <optional>
#include <system_error>
#include <utility>

#include "gearshift/base/log.h"
#include "gearshift/rendezvous/file/factory.h"
#include "runtime/arrival.h"
#include "runtime/former.h"
#include "runtime/notices.h"

namespace gearshift::runtime {
namespace {

using base::Error;
using base::ErrorCode;

/// Until it is asked whether the rendezvous has moved, or can be served now.
constexpr base::Duration kLookForStore = std::chrono::seconds(3);

struct HostPort {
  std::string host;
  int port = 0;
};

base::Result<HostPort> parse_address(std::string text) {
  if (text.rfind("tcp://", 0) == 0) text = text.substr(6);
  const std::size_t colon = text.rfind(':');
  const char* const digits = colon == std::string::npos ? "" : text.c_str() + colon + 1;
  char* end = nullptr;
  const long port = std::strtol(digits, &end, 10);
  if (*end != '\0' || port < 1 || port > 65535) {
    return Error(
        ErrorCode::kInvalidArgument,
        "the rendezvous address must be HOST:PORT or file:///directory, not '" + text + "'");
  }
  std::string host = text.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  return HostPort{host, static_cast<int>(port)};
}

/// One search for the store.
class Search {
 public:
  Search(base::Scheduler& scheduler, SessionOptions& options)
      : scheduler_(scheduler), options_(options) {}

  base::Status run(base::Duration start_patience);
  Place& place() { return place_; }

 private:
  base::Status serve_or_find_store(const HostPort& at, base::TimePoint patience);
  base::Status open_files(const std::string& directory, int session);
  base::Status await_store(const HostPort& at, base::TimePoint deadline);
  base::Status find_store(HostPort at, base::TimePoint deadline);
  base::Status judge_listener(const HostPort& at, const Error& unanswered);
  base::Status await_name(const std::string& host, base::TimePoint deadline);

  base::Scheduler& scheduler_;
  SessionOptions& options_;
  Place place_;
  Notices notices_{scheduler_, options_.timeout};
  int unanswered_ = 0;  ///< looks in a row in which somebody else than a store took the connection
  std::optional<base::TimePoint> silent_since_{};
  std::string suspicion_;  ///< who that may be
};

base::Status Search::run(base::Duration start_patience) {
  const Former former = Former::find(options_.rdzv, options_.rank);
  if (options_.rdzv.rfind("file://", 0) == 0) {
    if (!options_.interface.empty()) place_.host = options_.interface;
    return open_files(options_.rdzv.substr(7), former.sessions + 1);
  }
  GEARSHIFT_ASSIGN_OR_RETURN(const HostPort at, parse_address(options_.rdzv));
  base::TimePoint patience = scheduler_.after(start_patience);
  if (options_.nnodes > 1) GEARSHIFT_RETURN_IF_ERROR(await_name(at.host, patience));
  place_.number = former.server;
  return options_.rank == 0 ? serve_or_find_store(at, patience) : await_store(at, patience);
}

/// An address that cannot be served may be that of a store of its own (`gearshift store`), or of a
/// rank of a former job that is about to end. Other programs stay: where nobody answers, that is
/// told at once, and hardly waited for.
base::Status Search::serve_or_find_store(const HostPort& at, base::TimePoint patience) {
  constexpr base::Duration kFirstLook = std::chrono::milliseconds(500);
  constexpr base::Duration kInUse = std::chrono::seconds(5);
  const base::TimePoint start = scheduler_.now();
  base::Duration pause = kFirstLook;
  while (true) {
    const base::TimePoint look = scheduler_.after(pause);
    auto server = rendezvous::tcp::serve(scheduler_, at.host, at.port, options_.token);
    if (server) {
      place_.server = std::move(*server);
      return await_store(at, patience);
    }
    const std::string& why = server.error().message;
    const bool in_use = why.ends_with(std::generic_category().message(EADDRINUSE));
    // One that has answered is of a session that is over, and ends with it.
    const bool strange = in_use && place_.number == 0;
    const base::TimePoint deadline =
        start + (strange ? std::min(options_.timeout, kInUse) : options_.timeout);
    const base::Status found = await_store(at, std::min(look, deadline));
    if (found || found.error().code == ErrorCode::kAborted) return found;
    Error error(found.error().code, "rank 0 could not serve a store there itself: " + why + "; " +
                                        found.error().message);
    // kIo: one that ended while it was asked.
    const bool silent = error.code == ErrorCode::kTimeout || error.code == ErrorCode::kIo;
    if (in_use && (silent || error.code == ErrorCode::kUnauthenticated)) {
      error.message +=
          "; end the program that has the port (`ss -ltnp 'sport = :" + std::to_string(at.port) +
          "'` names it), or choose another one";
    }
    if (!silent || look >= deadline) {
      if (error.code != ErrorCode::kUnsupported)
        error.code = ErrorCode::kIo;  // nobody else's fault
      return error.within(options_.rdzv);
    }
    if (pause == kFirstLook) {
      const auto rest = std::chrono::ceil<std::chrono::seconds>(deadline - scheduler_.now());
      GEARSHIFT_LOG_AT(
          kWarn, "session",
          options_.rdzv << ": " << error.message << "; trying for " << rest.count() << " s more");
    }
    pause = std::min(2 * pause, kLookForStore);
  }
}

/// From the session of that number on, each of which has a folder of its own, to the first that is
/// not over.
base::Status Search::open_files(const std::string& directory, int session) {
  for (;; ++session) {
    const std::string next = session == 1 ? "" : "/session-" + std::to_string(session);
    GEARSHIFT_ASSIGN_OR_RETURN(place_.store, rendezvous::file::open(scheduler_, directory + next));
    GEARSHIFT_ASSIGN_OR_RETURN(const bool over, is_over(scheduler_, *place_.store, options_.rank));
    if (!over) break;
  }
  if (session > 1) {
    GEARSHIFT_ASSIGN_OR_RETURN(place_.first_store, rendezvous::file::open(scheduler_, directory));
  }
  return {};
}

/// The store of a session that is over ends with it: then the next one.
base::Status Search::await_store(const HostPort& at, base::TimePoint deadline) {
  while (true) {
    GEARSHIFT_RETURN_IF_ERROR(find_store(at, deadline));
    GEARSHIFT_ASSIGN_OR_RETURN(const bool over, is_over(scheduler_, *place_.store, options_.rank));
    if (!over) return {};
    GEARSHIFT_LOG_AT(kDebug, "runtime", place_.store->address() << " is of a session that is over");
    place_.store.reset();
  }
}

base::Status Search::find_store(HostPort at, base::TimePoint deadline) {
  // The first looks are short, to find out soon who else may be there.
  base::Duration pause = options_.rank == 0 ? kLookForStore : std::chrono::milliseconds(500);
  while (true) {
    const base::TimePoint slice = std::min(deadline, scheduler_.after(pause));
    pause = std::min(2 * pause, kLookForStore);
    std::string own_address;
    auto store = rendezvous::tcp::connect(scheduler_, at.host, at.port, options_.token, slice,
                                          &own_address, &place_.number, options_.timeout,
                                          [&options = options_] { return options.go_on(); });
    if (store) {
      place_.store = std::move(*store);
      place_.host = options_.interface.empty() ? own_address : options_.interface;
      return {};
    }
    if (store.error().code != ErrorCode::kTimeout) return store.error();
    if (slice >= deadline) {
      return Error(ErrorCode::kTimeout, store.error().message + suspicion_, store.error().culprit);
    }
    GEARSHIFT_RETURN_IF_ERROR(options_.go_on());
    if (options_.rank != 0) GEARSHIFT_RETURN_IF_ERROR(judge_listener(at, store.error()));
    if (!options_.rdzv_now) continue;
    options_.rdzv = options_.rdzv_now();
    GEARSHIFT_ASSIGN_OR_RETURN(at, parse_address(options_.rdzv));
  }
}

/// Says what there is where no store has answered. Rank 0 may be late, behind a relay as well; who
/// takes connections and is silent has another program's port, or stands still, and is waited for
/// no longer than a process that is silent.
base::Status Search::judge_listener(const HostPort& at, const Error& unanswered) {
  using rendezvous::tcp::Listener;
  constexpr base::Duration kProbe = std::chrono::milliseconds(300);
  constexpr int kSure = 2;  // a busy store may miss a short look
  const Listener found =
      rendezvous::tcp::find_listener(scheduler_, at.host, at.port, scheduler_.after(kProbe));
  if (found == Listener::kNone && notices_.due()) {
    GEARSHIFT_LOG_AT(kWarn, "session",
                     options_.rdzv << ": rank 0, which is to serve the rendezvous, has not come ("
                                   << notices_.waited() << " s so far)");
  }
  unanswered_ = found == Listener::kNone ? 0 : unanswered_ + 1;
  if (found != Listener::kSilent) silent_since_.reset();
  suspicion_.clear();
  if (found == Listener::kNone) return {};
  suspicion_ =
      std::string(
          "; somebody takes connections there: another program has the port (`ss -ltnp "
          "'sport = :") +
      std::to_string(at.port) + "'` on rank 0's host names it), or rank 0 " +
      (found == Listener::kSilent ? "stands still" : "has not come to a relay's other end");
  const std::string what = unanswered.message + suspicion_;
  if (unanswered_ == kSure) {
    GEARSHIFT_LOG_AT(kWarn, "session", options_.rdzv << ": " << what << "; waiting on");
  }
  if (found != Listener::kSilent) return {};
  if (!silent_since_) silent_since_ = scheduler_.now();
  const base::Duration silence = scheduler_.now() - *silent_since_;
  if (silence < std::max(options_.timeout, kLookForStore)) return {};
  return Error(ErrorCode::kPeerLost, what, 0).within(options_.rdzv);
}

/// Until the rendezvous host's name can be resolved: names of hosts that are just being started are
/// published late. One that is not known in the end is left to `connect`, which says so.
base::Status Search::await_name(const std::string& host, base::TimePoint deadline) {
  constexpr base::Duration kRetry = std::chrono::milliseconds(500);
  auto loopback = rendezvous::tcp::resolves_to_loopback(host);
  if (!loopback) {
    GEARSHIFT_LOG_AT(kWarn, "session",
                     "the rendezvous host '" << host << "' is not known here (yet), waiting: "
                                             << loopback.error().message);
  }
  while (!loopback && scheduler_.after(kRetry) < deadline) {
    GEARSHIFT_RETURN_IF_ERROR(options_.go_on());
    scheduler_.sleep_for(kRetry);
    loopback = rendezvous::tcp::resolves_to_loopback(host);
  }
  if (!loopback || !*loopback) return {};
  return Error(ErrorCode::kInvalidArgument,
               "the rendezvous host '" + host +
                   "' resolves to this machine's loopback address, which the other hosts "
                   "cannot reach: use a name or address of rank 0's host in the common network "
                   "(see /etc/hosts)");
}

}  // namespace

Place& Place::operator=(Place&& other) noexcept {
  store = std::move(other.store);
  first_store = std::move(other.first_store);
  server = std::move(other.server);
  host = std::move(other.host);
  number = other.number;
  return *this;
}

base::Result<Place> find_place(base::Scheduler& scheduler, SessionOptions& options,
                               base::Duration patience) {
  Search search(scheduler, options);
  GEARSHIFT_RETURN_IF_ERROR(search.run(patience));
  return std::move(search.place());
}

}  // namespace gearshift::runtime
