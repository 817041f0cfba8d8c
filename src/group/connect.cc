#include "gearshift/group/connect.h"

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <system_error>
#include <utility>

#include "gearshift/base/threads.h"
#include "gearshift/transport/loopback.h"
#include "group/announcement.h"

namespace gearshift::group {
namespace {

/// Peers that one rank connects at a time.
constexpr int kParallel = 16;
/// How soon a waiting accept notices that another pair has failed.
constexpr base::Duration kAcceptSlice = std::chrono::milliseconds(200);
/// How often whoever waits looks whether another rank has given up.
constexpr base::Duration kLookForLost = std::chrono::milliseconds(500);
/// How often the caller is asked whether to go on.
constexpr base::Duration kAskToGoOn = std::chrono::milliseconds(100);
/// What that takes longer where it is asked who has gone: a file for each rank, maybe.
constexpr base::Duration kLookForEach = std::chrono::milliseconds(10);
/// What a process that is ending may take from the end of its sockets until it is missed.
constexpr base::Duration kEnding = std::chrono::milliseconds(500);
constexpr base::Duration kLookForEnding = std::chrono::milliseconds(50);

std::string rank_key(const ConnectOptions& options, int rank) {
  return "group/" + std::to_string(options.generation.value) + "/rank/" + std::to_string(rank);
}

/// Under it the first rank that gives up says because of whom: his number, a space, and why.
std::string lost_key(const ConnectOptions& options) {
  return "group/" + std::to_string(options.generation.value) + "/lost";
}

std::string seconds_text(base::Duration d) {
  std::string text = std::to_string(base::to_seconds(d));
  text.erase(text.find_last_not_of('0') + 1);
  if (text.back() == '.') text.pop_back();
  return text + " s";
}

/// "rank 2", "ranks 2, 5 and 7".
std::string list_ranks(const std::vector<int>& ranks) {
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    if (i > 0) text += i + 1 == ranks.size() ? " and " : ", ";
    text += std::to_string(ranks[i]);
  }
  return text;
}

/// One rank's part in making the mesh.
class Mesh {
 public:
  Mesh(base::Scheduler& scheduler, rendezvous::Store& store,
       const std::vector<std::shared_ptr<transport::Transport>>& transports,
       const ConnectOptions& options)
      : scheduler_(scheduler),
        store_(store),
        transports_(transports),
        options_(options),
        deadline_(scheduler.after(options.timeout)),
        monitor_(scheduler.make_monitor()),
        announcements_(static_cast<std::size_t>(options.size)),
        links_(static_cast<std::size_t>(options.size)) {}

  base::Status publish() {
    const std::string key = rank_key(options_, options_.rank.value);
    GEARSHIFT_ASSIGN_OR_RETURN(const std::int64_t claims, store_.add(key + "/claims", 1));
    if (claims > 1) {
      return base::Error(base::ErrorCode::kMismatch,
                         "rank " + std::to_string(options_.rank.value) +
                             " is taken: two processes were started with this rank, or the "
                             "rendezvous " +
                             store_.address() + " still holds a previous job",
                         options_.rank.value);
    }
    Announcement own;
    own.size = options_.size;
    for (const auto& t : transports_) own.endpoints.push_back({t->name(), t->address()});
    return store_.set(key, own.encode());
  }

  base::Status meet() {
    std::vector<int> missing;
    for (int r = 0; r < options_.size; ++r) {
      if (r == options_.rank.value) continue;
      // After the first timeout the deadline has passed: the rest are only looked at, not awaited.
      auto text = announcement_of(r);
      if (!text && text.error().code == base::ErrorCode::kAborted) return text.error();
      if (!text && text.error().code != base::ErrorCode::kTimeout) {
        return text.error().within("waiting for rank " + std::to_string(r));
      }
      if (!text) {
        missing.push_back(r);
        continue;
      }
      GEARSHIFT_RETURN_IF_ERROR(note(r, *text));
    }
    if (missing.empty()) return {};
    return base::Error(base::ErrorCode::kTimeout,
                       list_ranks(missing) + " of " + std::to_string(options_.size) +
                           " did not appear at " + store_.address() + " within " +
                           seconds_text(options_.timeout),
                       missing.front());
  }

  base::Status link_up() {
    std::vector<std::unique_ptr<base::Task>> tasks;
    const auto body = [this] { work(); };
    for (int i = 0; i < std::min(kParallel, options_.size - 1); ++i) {
      try {
        tasks.push_back(tasks.empty() ? base::spawn_patiently(scheduler_, "connect", body)
                                      : scheduler_.spawn("connect", body));
      } catch (const std::system_error&) {  // no thread to have: some do as well
        if (tasks.empty()) throw;
        break;
      }
    }
    watch(static_cast<int>(tasks.size()));
    for (auto& task : tasks) task->join();
    return verdict();
  }

  std::vector<std::shared_ptr<transport::Connection>> take_links() { return std::move(links_); }

  /// What to say of a failure: that of the first rank that gave up, whose links break for others
  /// when it does. Tells them, if this is it.
  base::Error agree(const base::Error& own) {
    using base::ErrorCode;
    if (own.code == ErrorCode::kAborted) {  // as the caller wants it
      tell(options_.rank.value, own.message);
      return own;
    }
    if (own.code != ErrorCode::kTimeout && own.code != ErrorCode::kPeerLost &&
        own.code != ErrorCode::kClosed && own.code != ErrorCode::kIo) {
      return own;  // about how the job was started, and each rank's own
    }
    if (const auto told = given_up()) return told->culprit == own.culprit ? own : *told;
    if (own.culprit >= 0) tell(own.culprit, "another rank says " + own.message);
    return own;
  }

 private:
  void tell(int lost, const std::string& why) {
    if (!store_.set(lost_key(options_), std::to_string(lost) + " " + why)) return;
    // The store may end with this rank: others get the time to read it there.
    if (options_.rank.value == 0) scheduler_.sleep_for(2 * kLookForLost);
  }

  base::Status asked_to_go_on() const { return options_.go_on ? options_.go_on() : base::Status(); }

  /// While `workers` tasks connect: ends them when one has failed, when another rank has given up,
  /// or when the caller wants it.
  void watch(int workers) {
    std::unique_lock<base::Monitor> lock(*monitor_);
    while (finished_ < workers) {
      if (fatal_) stop_.request_stop();
      monitor_->wait_until(scheduler_.after(kAskToGoOn));
      if (finished_ == workers || fatal_) continue;
      lock.unlock();
      const base::Status wanted = asked_to_go_on();
      const std::optional<base::Error> lost = wanted ? in_vain() : wanted.error();
      lock.lock();
      if (lost && !fatal_) fatal_ = lost;
    }
  }

  base::Result<std::string> announcement_of(int rank) {
    while (true) {
      const base::Duration pause = options_.go_on ? kAskToGoOn : kLookForLost;
      const base::TimePoint slice = std::min(deadline_, scheduler_.after(pause));
      auto text = store_.get(rank_key(options_, rank), slice);
      if (text || text.error().code != base::ErrorCode::kTimeout) return text;
      GEARSHIFT_RETURN_IF_ERROR(asked_to_go_on());
      if (slice >= deadline_) return text;
      if (const auto lost = in_vain()) return *lost;
    }
  }

  base::Status note(int rank, const std::string& text) {
    GEARSHIFT_ASSIGN_OR_RETURN(auto announcement, Announcement::decode(text));
    if (announcement.size != options_.size) {
      return base::Error(base::ErrorCode::kMismatch,
                         "rank " + std::to_string(rank) + " was started with world size " +
                             std::to_string(announcement.size) + ", this rank " +
                             std::to_string(options_.rank.value) + " with " +
                             std::to_string(options_.size),
                         rank);
    }
    announcements_[static_cast<std::size_t>(rank)] = std::move(announcement);
    return {};
  }

  /// Takes peers in ascending order. Since every rank does, the pair that comes first in the order
  /// of (lower, higher) is always being worked on by both of its ranks: no deadlock, however few
  /// workers there are and even if connect waits for accept.
  void work() {
    while (true) {
      int peer = 0;
      {
        std::lock_guard<base::Monitor> lock(*monitor_);
        if (next_ == options_.rank.value) ++next_;
        if (next_ >= options_.size || fatal_) {
          ++finished_;
          monitor_->notify_all();
          return;
        }
        peer = next_++;
      }
      finish(peer, join(peer));
    }
  }

  void finish(int peer, base::Result<std::unique_ptr<transport::Connection>> link) {
    std::lock_guard<base::Monitor> lock(*monitor_);
    if (link) {
      links_[static_cast<std::size_t>(peer)] = std::move(*link);
    } else if (link.error().code == base::ErrorCode::kTimeout) {
      late_.push_back(peer);
      last_reason_ = link.error().message;
    } else if (!fatal_) {
      fatal_ = link.error();
      const bool of_another = fatal_->culprit >= 0 && fatal_->culprit != peer;
      if (of_another && fatal_->code == base::ErrorCode::kPeerLost) return;  // see given_up()
      fatal_ = fatal_->within("connecting with rank " + std::to_string(peer));
      // It may be this rank that can make no connection.
      if (fatal_->culprit != options_.rank.value) fatal_->culprit = peer;
    }
  }

  base::Result<std::unique_ptr<transport::Connection>> join(int peer) {
    const Endpoint* remote = nullptr;
    transport::Transport* transport = choose(peer, &remote);
    if (transport == nullptr) {
      return base::Error(base::ErrorCode::kUnsupported, "no transport reaches it; " + offers(peer),
                         peer);
    }
    const base::Rank rank(peer);
    if (peer < options_.rank.value) {
      auto link = transport->connect(rank, remote->address, deadline_, stop_.get_token());
      if (link || link.error().code != base::ErrorCode::kIo) return link;
      const auto lost = who_ends();
      if (!lost) return link;
      if (lost->culprit != peer) return *lost;  // maybe of the same host, which ends them all
      return base::Error(lost->code, link.error().message, peer);
    }
    while (true) {
      const base::TimePoint slice = std::min(deadline_, scheduler_.after(kAcceptSlice));
      auto link = transport->accept(rank, slice);
      if (link || link.error().code != base::ErrorCode::kTimeout || slice >= deadline_ ||
          failed()) {
        return link;
      }
      if (const auto lost = in_vain()) return *lost;
    }
  }

  /// Both ranks come to the same choice: `reaches` is symmetric, names break ties.
  transport::Transport* choose(int peer, const Endpoint** remote) const {
    transport::Transport* best = nullptr;
    for (const auto& mine : transports_) {
      for (const Endpoint& e : announcements_[static_cast<std::size_t>(peer)].endpoints) {
        if (e.transport != mine->name() || !mine->reaches(e.address)) continue;
        const bool better =
            best == nullptr || mine->preference() > best->preference() ||
            (mine->preference() == best->preference() && mine->name() < best->name());
        if (!better) continue;
        best = mine.get();
        *remote = &e;
      }
    }
    return best;
  }

  std::string offers(int peer) const {
    std::string text = "it offers";
    for (const Endpoint& e : announcements_[static_cast<std::size_t>(peer)].endpoints) {
      text += " " + e.transport + " (" + e.address + ")";
    }
    text += ", this rank";
    for (const auto& t : transports_) text += " " + t->name() + " (" + t->address() + ")";
    return text;
  }

  /// One of those who wait, now and then.
  bool may_look(base::TimePoint& next, base::Duration pause) {
    std::lock_guard<base::Monitor> lock(*monitor_);
    if (scheduler_.now() < next) return false;
    next = scheduler_.after(pause);
    return true;
  }

  /// Because of whom this rank waits for nothing, if that can be known.
  std::optional<base::Error> in_vain() {
    if (!may_look(next_look_, kLookForLost)) return std::nullopt;
    if (auto told = given_up()) return told;
    if (!may_look(next_count_, kLookForLost + options_.size * kLookForEach)) return std::nullopt;
    return gone();
  }

  /// A rank that had come to the rendezvous (see Store::attend; by its number) and has ended.
  std::optional<base::Error> gone() {
    const auto name = store_.absentee();
    if (!name || name->empty()) return std::nullopt;
    const int rank = std::atoi(name->c_str());
    if (std::to_string(rank) != *name || rank == options_.rank.value) return std::nullopt;
    return base::Error(base::ErrorCode::kPeerLost,
                       "rank " + *name + " is lost while all connect: it has ended", rank);
  }

  /// The same, where a rank cannot be connected to, which may be ending just now.
  std::optional<base::Error> who_ends() {
    const base::TimePoint deadline = std::min(deadline_, scheduler_.after(kEnding));
    while (true) {
      auto lost = gone();
      if (lost || scheduler_.now() >= deadline) return lost;
      scheduler_.sleep_for(kLookForEnding);
    }
  }

  /// What another rank has said when it gave up.
  std::optional<base::Error> given_up() {
    const auto text = store_.get(lost_key(options_), scheduler_.now());
    if (!text) return std::nullopt;
    const std::size_t space = std::min(text->find(' '), text->size());
    const std::string rank = text->substr(0, space);
    return base::Error(base::ErrorCode::kPeerLost,
                       "rank " + rank + " is lost while all connect:" + text->substr(space),
                       std::atoi(rank.c_str()));
  }

  bool failed() const {
    std::lock_guard<base::Monitor> lock(*monitor_);
    return fatal_.has_value();
  }

  base::Status verdict() {
    std::lock_guard<base::Monitor> lock(*monitor_);
    if (fatal_) return *fatal_;
    if (late_.empty()) return {};
    std::sort(late_.begin(), late_.end());
    return base::Error(base::ErrorCode::kTimeout,
                       "could not connect with " + list_ranks(late_) + " of " +
                           std::to_string(options_.size) + " within " +
                           seconds_text(options_.timeout) + ": " + last_reason_,
                       late_.front());
  }

  base::Scheduler& scheduler_;
  rendezvous::Store& store_;
  const std::vector<std::shared_ptr<transport::Transport>>& transports_;
  const ConnectOptions& options_;
  const base::TimePoint deadline_;
  std::unique_ptr<base::Monitor> monitor_;
  std::vector<Announcement> announcements_;
  std::vector<std::shared_ptr<transport::Connection>> links_;
  std::stop_source stop_;  ///< of the connecting tasks
  int next_ = 0;
  int finished_ = 0;  ///< tasks
  base::TimePoint next_look_{};
  base::TimePoint next_count_{};
  std::vector<int> late_;
  std::string last_reason_;
  std::optional<base::Error> fatal_;
};

/// Ends with the first that fails: others may wait in vain for the same reason, and for long.
base::Status wait_for_all(base::Scheduler& scheduler, std::vector<transport::Request> requests,
                          base::TimePoint deadline, const ConnectOptions& options) {
  base::TimePoint ask = scheduler.after(kAskToGoOn);
  base::Duration pause = std::chrono::microseconds(50);
  base::Status status;
  while (!requests.empty() && status && scheduler.now() < deadline) {
    std::vector<transport::Request> waiting;
    for (const transport::Request& request : requests) {
      if (!request.done()) {
        waiting.push_back(request);
      } else if (base::Status done = request.wait(deadline); status && !done) {
        status = done;
      }
    }
    requests = std::move(waiting);
    if (!requests.empty() && status) scheduler.sleep_for(pause);
    pause = std::min<base::Duration>(2 * pause, std::chrono::milliseconds(10));
    if (!options.go_on || !status || scheduler.now() < ask) continue;
    status = options.go_on();
    ask = scheduler.after(kAskToGoOn);
  }
  for (const transport::Request& request : requests) {
    const base::Status done = request.wait(scheduler.now());
    if (status && !done) status = done;
  }
  return status;
}

/// What each rank says about its links once they stand: which of them lead to memory that it can
/// map. So all ranks have the same table, and agree on who shares a window without asking again.
base::Result<std::vector<std::vector<bool>>> exchange_shares(
    base::Scheduler& scheduler, const std::vector<std::shared_ptr<transport::Connection>>& links,
    const ConnectOptions& options) {
  const base::TimePoint deadline = scheduler.after(options.timeout);
  constexpr transport::Tag kTag{transport::kFirstService - 1, 0, 0};
  const std::size_t size = links.size();
  std::vector<std::byte> mine(size);
  std::vector<std::vector<std::byte>> theirs(size, std::vector<std::byte>(size));
  std::vector<transport::Request> requests;
  for (std::size_t r = 0; r < size; ++r) {
    if (links[r]) mine[r] = std::byte{links[r]->capabilities().shared_regions};
  }
  for (std::size_t r = 0; r < size; ++r) {
    if (!links[r]) continue;
    requests.push_back(links[r]->recv(kTag, theirs[r]));
    requests.push_back(links[r]->send(kTag, mine));
  }
  GEARSHIFT_RETURN_IF_ERROR(wait_for_all(scheduler, requests, deadline, options));
  std::vector<std::vector<bool>> shares(size, std::vector<bool>(size));
  for (std::size_t a = 0; a < size; ++a) {
    const std::vector<std::byte>& row = links[a] ? theirs[a] : mine;
    for (std::size_t b = 0; b < size; ++b) shares[a][b] = row[b] != std::byte{0};
  }
  return shares;
}

}  // namespace

base::Result<std::unique_ptr<Group>> connect(
    base::Scheduler& scheduler, std::shared_ptr<transport::Router> router, rendezvous::Store& store,
    std::vector<std::shared_ptr<transport::Transport>> transports, const ConnectOptions& options) {
  if (options.size < 1 || options.rank.value < 0 || options.rank.value >= options.size) {
    return base::Error(base::ErrorCode::kInvalidArgument,
                       "rank " + std::to_string(options.rank.value) +
                           " does not exist in a group of " + std::to_string(options.size));
  }
  std::vector<std::shared_ptr<transport::Connection>> links(1);
  std::vector<std::vector<bool>> shares;
  if (options.size > 1) {
    Mesh mesh(scheduler, store, transports, options);
    GEARSHIFT_RETURN_IF_ERROR(mesh.publish());
    if (auto met = mesh.meet(); !met) {
      const bool of_a_loss = met.error().code == base::ErrorCode::kPeerLost ||
                             met.error().code == base::ErrorCode::kAborted;
      return of_a_loss ? mesh.agree(met.error()) : met.error();
    }
    if (auto linked = mesh.link_up(); !linked) return mesh.agree(linked.error());
    links = mesh.take_links();
    auto found = exchange_shares(scheduler, links, options);
    if (!found) return mesh.agree(found.error());
    shares = std::move(*found);
  }
  auto context = std::make_shared<Context>();
  context->scheduler = &scheduler;
  context->loopback = transport::make_loopback(router, options.rank);
  context->router = std::move(router);
  context->generation = options.generation;
  context->timeout = options.timeout;
  context->progress = std::make_unique<Progress>(scheduler);
  context->transports = std::move(transports);
  context->shares = std::move(shares);
  return std::make_unique<Group>(std::move(context), options.rank, std::move(links),
                                 std::uint16_t{0});
}

}  // namespace gearshift::group
