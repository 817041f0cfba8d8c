#include "collectives/window/operation.h"

#include <string>
#include <utility>

namespace gearshift::collectives {

namespace {

/// The window is opened by the first operation, which somebody may come to late.
base::Error came_late(const base::Error& error) {
  if (error.code != base::ErrorCode::kTimeout) return error;
  base::Error late = error;
  late.message = "the first operation of this host's processes: waiting for " +
                 (error.culprit >= 0 ? "rank " + std::to_string(error.culprit) : "another one") +
                 ", which has not come to it in time";
  return late;
}

}  // namespace

base::Result<group::Window*> window_of(group::Group& group, const Options& options) {
  if (group.window_opened()) return group.window();
  std::shared_ptr<group::Window> window;
  if (group.shares_memory()) {
    const group::ProgressScope scope(group.progress(), "opening the window of this host");
    const base::Duration timeout = options.timeout.value_or(group.timeout());
    auto opened = group::Window::open(group, group.scheduler().after(timeout));
    if (!opened) return came_late(opened.error());
    window = std::move(*opened);
  }
  group.set_window(std::move(window));
  return group.window();
}

WindowOperation::WindowOperation(group::Group& group, group::Window& window, const char* name,
                                 const Options& options)
    : group_(group), window_(window), name_(name), options_(options) {
  if (!options_.label.empty()) report();
}

WindowOperation::~WindowOperation() {
  if (!progress_) group_.progress().quick(name_);
}

base::Status WindowOperation::begin() const {
  const base::Status intact = window_.intact();
  return intact ? intact : base::Status(intact.error().within(title()));
}

std::uint64_t WindowOperation::arrive() {
  const std::uint64_t round = window_.next_round();
  window_.arrive(round);
  return round;
}

base::Status WindowOperation::await(std::uint64_t round) {
  using Patience = transport::HostSync::Patience;
  if (!options_.background && window_.quick(round)) return {};
  report();
  const base::Status status =
      window_.await(round, options_.timeout.value_or(group_.timeout()),
                    options_.background ? Patience::kSleep : Patience::kYield);
  if (status) return status;
  progress_->give_up();
  base::Error error = status.error().within(title());
  // The window numbers the members of the group; people know the ranks of the whole job.
  if (error.code == base::ErrorCode::kTimeout && error.culprit >= 0) {
    error.culprit = group_.link(base::Rank(error.culprit)).peer().value;
    error.message = title() + ": waiting for rank " + std::to_string(error.culprit);
  }
  return error;
}

base::Error WindowOperation::mismatch(int rank, const std::string& what) const {
  const int known_as = group_.link(base::Rank(rank)).peer().value;
  return {base::ErrorCode::kProtocol, title() + ": rank " + std::to_string(known_as) + " " + what,
          known_as};
}

base::Error WindowOperation::disagreement(int rank, const std::string& what) const {
  base::Error error = mismatch(rank, what);
  error.code = base::ErrorCode::kMismatch;
  return error;
}

std::string WindowOperation::title() const {
  return options_.label.empty() ? name_ : options_.label + " (window)";
}

void WindowOperation::report() {
  if (!progress_) progress_.emplace(group_.progress(), title());
}

}  // namespace gearshift::collectives
