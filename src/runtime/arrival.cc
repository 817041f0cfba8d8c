#include "runtime/arrival.h"

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <string>
#include <utility>

#include "gearshift/base/log.h"
#include "runtime/notices.h"

namespace gearshift::runtime {
namespace {

using base::Error;
using base::ErrorCode;
using Text = std::optional<std::string>;

/// "4 0": the job has four processes, says rank 0.
constexpr const char* kSizeKey = "size";

base::Duration pause_between_looks(int world_size) {
  return std::chrono::milliseconds(250 + 10 * world_size);
}

std::string arrival_key(int rank) { return "arrived/" + std::to_string(rank); }
std::string claims_key(int rank) { return arrival_key(rank) + "/claims"; }
/// Here once the rank knows that the job can never be complete.
std::string informed_key(int rank) { return arrival_key(rank) + "/informed"; }

/// Of a rank that has come but does not look: it may have died, too.
constexpr base::Duration kMostPatienceWithReaders = std::chrono::seconds(5);

/// "7 it died": what is before the space, and what is behind it.
std::pair<std::string, std::string> split(const std::string& text) {
  const std::size_t space = text.find(' ');
  return {text.substr(0, space), space == std::string::npos ? "" : text.substr(space + 1)};
}

std::string list_of(const std::vector<int>& ranks) {
  std::string list;
  for (const int r : ranks) list += (list.empty() ? "" : ", ") + std::to_string(r);
  return list;
}

/// What stands under a key, if anything does by now.
base::Result<Text> look_up(base::Scheduler& scheduler, rendezvous::Store& store,
                           const std::string& key) {
  base::Result<std::string> value = store.get(key, scheduler.now());
  if (value) return Text(std::move(*value));
  if (value.error().code != ErrorCode::kTimeout) return value.error();
  return Text();
}

/// A rank's part in the meeting.
class Arrival {
 public:
  Arrival(base::Scheduler& scheduler, rendezvous::Store& store, rendezvous::Store* news,
          const SessionOptions& options)
      : scheduler_(scheduler),
        store_(store),
        news_(news),
        options_(options),
        pause_(pause_between_looks(options.world_size)),
        notices_(scheduler, options.timeout) {}

  base::Status claim();
  base::Status come(const std::string& message);
  base::Result<std::vector<std::string>> await_all(base::Duration patience);
  /// This rank may try again.
  void give_back() { (void)store_.add(claims_key(options_.rank), -1); }

 private:
  base::Result<Text> await(int rank, base::TimePoint deadline);
  base::Status say_who_has_come();
  Error give_up(const std::vector<int>& missing, base::Duration patience);
  base::Status look_around();
  base::Result<Text> known_loss();
  base::Status compare_sizes();
  void let_others_read(const std::string& lost);

  base::Scheduler& scheduler_;
  rendezvous::Store& store_;
  rendezvous::Store* const news_;
  const SessionOptions& options_;
  const base::Duration pause_;
  Notices notices_;
};

base::Status Arrival::claim() {
  const int rank = options_.rank;
  GEARSHIFT_ASSIGN_OR_RETURN(const std::int64_t claims, store_.add(claims_key(rank), 1));
  if (claims <= 1) return {};
  give_back();
  return Error(ErrorCode::kMismatch,
               "rank " + std::to_string(rank) +
                   " is taken: two processes were started with this rank (two hosts with one "
                   "--node-rank, or with different -n, maybe), or the rendezvous " +
                   store_.address() + " still holds a previous job",
               rank);
}

base::Status Arrival::come(const std::string& message) {
  GEARSHIFT_RETURN_IF_ERROR(store_.attend(std::to_string(options_.rank)));
  GEARSHIFT_RETURN_IF_ERROR(compare_sizes());
  GEARSHIFT_RETURN_IF_ERROR(store_.set(arrival_key(options_.rank), message));
  GEARSHIFT_LOG_AT(kDebug, "runtime", "came to the rendezvous " << store_.address());
  return {};
}

/// The first to come says how many there are. With another number all would wait in vain, each for
/// those that only its own job has.
base::Status Arrival::compare_sizes() {
  const std::string own = std::to_string(options_.rank);
  const std::string size = std::to_string(options_.world_size);
  GEARSHIFT_ASSIGN_OR_RETURN(const Text said, look_up(scheduler_, store_, kSizeKey));
  if (!said) return store_.set(kSizeKey, size + " " + own);
  const auto [first_size, first] = split(*said);
  if (first_size == size) return {};
  const std::string what =
      " was started with world size " + size + ", rank " + first + " with " + first_size;
  GEARSHIFT_RETURN_IF_ERROR(store_.set(kLostKey, own + " it" + what));
  let_others_read(own);
  return Error(ErrorCode::kMismatch, "rank " + own + what, options_.rank);
}

/// This rank may be the one that serves the store: it stays until those who have come know, too.
void Arrival::let_others_read(const std::string& lost) {
  const base::TimePoint deadline = scheduler_.after(kMostPatienceWithReaders);
  (void)store_.set(informed_key(options_.rank), "");
  scheduler_.sleep_for(2 * pause_);  // some may just be coming
  for (int rank = 0; rank < options_.world_size; ++rank) {
    if (rank == options_.rank || std::to_string(rank) == lost) continue;
    const base::Result<Text> here = look_up(scheduler_, store_, arrival_key(rank));
    if (!here) return;  // whoever serves has left
    if (*here) (void)store_.get(informed_key(rank), deadline);
  }
}

base::Result<Text> Arrival::known_loss() {
  GEARSHIFT_ASSIGN_OR_RETURN(Text lost, look_up(scheduler_, store_, kLostKey));
  if (lost || news_ == nullptr) return lost;
  return look_up(scheduler_, *news_, kLostKey);
}

/// Why the job can never be complete, if it is known. Who finds out first tells all, so that all
/// name the same rank, and not one that has only drawn its conclusion.
base::Status Arrival::look_around() {
  GEARSHIFT_ASSIGN_OR_RETURN(const std::string absentee, store_.absentee());
  GEARSHIFT_ASSIGN_OR_RETURN(Text lost, known_loss());
  if (!lost) {
    if (absentee.empty()) return compare_sizes();
    lost = absentee + " it died";
    GEARSHIFT_RETURN_IF_ERROR(store_.set(kLostKey, *lost));
  }
  const auto [rank, why] = split(*lost);
  let_others_read(rank);
  return Error(ErrorCode::kPeerLost,
               "rank " + rank + " is lost before all have come to the rendezvous " +
                   store_.address() + ": " + why,
               std::atoi(rank.c_str()));
}

/// What the rank says of itself; nothing when it has not come by the deadline.
base::Result<Text> Arrival::await(int rank, base::TimePoint deadline) {
  while (true) {
    const base::TimePoint slice = std::min(deadline, scheduler_.after(pause_));
    base::Result<std::string> here = store_.get(arrival_key(rank), slice);
    if (here) return Text(std::move(*here));
    if (here.error().code != ErrorCode::kTimeout) return here.error();
    GEARSHIFT_RETURN_IF_ERROR(options_.go_on());
    GEARSHIFT_RETURN_IF_ERROR(look_around());
    if (notices_.due()) GEARSHIFT_RETURN_IF_ERROR(say_who_has_come());
    if (slice >= deadline) return Text();
  }
}

base::Result<std::vector<std::string>> Arrival::await_all(base::Duration patience) {
  const base::TimePoint deadline = scheduler_.after(patience);
  std::vector<std::string> messages;
  std::vector<int> missing;
  for (int r = 0; r < options_.world_size; ++r) {
    GEARSHIFT_ASSIGN_OR_RETURN(auto here, await(r, deadline));
    messages.push_back(here.value_or(""));
    if (!here) missing.push_back(r);
  }
  if (missing.empty()) return messages;
  return give_up(missing, patience);
}

/// The first of those who have.
base::Status Arrival::say_who_has_come() {
  std::vector<int> here;
  std::vector<int> missing;
  for (int r = 0; r < options_.world_size; ++r) {
    GEARSHIFT_ASSIGN_OR_RETURN(const Text said, look_up(scheduler_, store_, arrival_key(r)));
    if (said && r < options_.rank) return {};
    (said ? here : missing).push_back(r);
  }
  if (missing.empty()) return {};
  GEARSHIFT_LOG_AT(kWarn, "session",
                   "waiting for rank " << list_of(missing) << " of " << options_.world_size
                                       << " to come to the rendezvous; come so far: rank "
                                       << list_of(here) << " (" << notices_.waited()
                                       << " s so far)");
  return {};
}

/// The others, who have waited less, must not take this rank for the one that is lost.
Error Arrival::give_up(const std::vector<int>& missing, base::Duration patience) {
  const std::string seconds = std::to_string(static_cast<int>(base::to_seconds(patience))) + " s";
  const std::string first = std::to_string(missing[0]);
  const base::Status told =
      store_.set(kLostKey, first + " after " + seconds + " it had not come yet");
  if (told) let_others_read(first);
  return {ErrorCode::kTimeout,
          "after " + seconds + " these of " + std::to_string(options_.world_size) +
              " processes have not come to the rendezvous " + store_.address() + ": rank " +
              list_of(missing),
          missing[0]};
}

}  // namespace

base::Result<std::vector<std::string>> await_everybody(
    base::Scheduler& scheduler, rendezvous::Store& store, rendezvous::Store* news,
    const SessionOptions& options, base::Duration patience, const std::string& message) {
  Arrival arrival(scheduler, store, news, options);
  GEARSHIFT_RETURN_IF_ERROR(arrival.claim());
  GEARSHIFT_RETURN_IF_ERROR(arrival.come(message));
  auto messages = arrival.await_all(patience);
  if (!messages && messages.error().code == ErrorCode::kAborted) arrival.give_back();
  return messages;
}

base::Result<bool> is_over(base::Scheduler& scheduler, rendezvous::Store& store, int rank) {
  GEARSHIFT_ASSIGN_OR_RETURN(const Text claims, look_up(scheduler, store, claims_key(rank)));
  if (!claims || *claims == "0") return false;
  GEARSHIFT_ASSIGN_OR_RETURN(const std::string absentee, store.absentee());
  return !absentee.empty();
}

}  // namespace gearshift::runtime
