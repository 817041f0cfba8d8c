#include "gearshift/group/group.h"

#include <algorithm>
#include <cassert>
#include <system_error>
#include <utility>

namespace gearshift::group {

namespace {

/// What is known about some of a topology's ranks. The one that a thread asked for last is at hand:
/// all ranks of a simulation ask for the same.
std::shared_ptr<const Topology> part_of(const std::shared_ptr<const Topology>& whole,
                                        const std::vector<base::Rank>& ranks) {
  struct Known {
    std::weak_ptr<const Topology> whole;
    std::vector<base::Rank> ranks;
    std::weak_ptr<const Topology> part;
  };
  thread_local Known known;
  if (known.whole.lock() == whole && known.ranks == ranks) {
    if (auto part = known.part.lock()) return part;
  }
  std::vector<int> members;
  members.reserve(ranks.size());
  for (const base::Rank r : ranks) members.push_back(r.value);
  auto part = std::make_shared<const Topology>(whole->subset(members));
  known = {whole, ranks, part};
  return part;
}

}  // namespace

Group::Group(std::shared_ptr<Context> context, base::Rank rank, Links links, std::uint16_t channel)
    : Group(std::move(context), rank, std::make_shared<const Links>(std::move(links)), channel) {}

Group::Group(std::shared_ptr<Context> context, base::Rank rank, std::shared_ptr<const Links> links,
             std::uint16_t channel)
    : context_(std::move(context)), rank_(rank), links_(std::move(links)), channel_(channel) {
  assert(rank_.value >= 0 && rank_.value < size());
  assert(channel_ < transport::kFirstService);
}

Group Group::with_channel(std::uint16_t channel) const {
  Group copy(context_, rank_, links_, channel);
  copy.topology_ = topology_;
  return copy;
}

Group Group::subgroup(const std::vector<base::Rank>& ranks, std::uint16_t channel) const {
  assert(std::is_sorted(ranks.begin(), ranks.end()));
  const auto own = std::find(ranks.begin(), ranks.end(), rank_);
  assert(own != ranks.end());
  if (ranks.size() == links_->size()) return with_channel(channel);
  Links links;
  links.reserve(ranks.size());
  for (const base::Rank r : ranks) links.push_back((*links_)[static_cast<std::size_t>(r.value)]);
  Group part(context_, base::Rank(static_cast<int>(own - ranks.begin())), std::move(links),
             channel);
  if (topology_) part.topology_ = part_of(topology_, ranks);
  return part;
}

bool Group::shares_memory() const {
  const auto& shares = context_->shares;
  if (size() < 2 || shares.empty()) return false;
  const auto world_rank = [&](int r) {
    const auto& link = links()[static_cast<std::size_t>(r)];
    return static_cast<std::size_t>((link ? link : context_->loopback)->peer().value);
  };
  for (int a = 0; a < size(); ++a) {
    for (int b = 0; b < a; ++b) {
      if (!shares[world_rank(a)][world_rank(b)]) return false;
    }
  }
  return true;
}

transport::Traffic Group::traffic() const {
  transport::Traffic sum;
  for (const auto& link : links()) {
    if (!link) continue;
    const transport::Traffic t = link->traffic();
    sum.bytes_sent += t.bytes_sent;
    sum.bytes_received += t.bytes_received;
    sum.messages_sent += t.messages_sent;
    sum.messages_received += t.messages_received;
  }
  return sum;
}

void Group::abort(const base::Error& reason) const {
  for (const auto& link : links()) {
    if (link) link->abort(reason);
  }
  if (context_->loopback) context_->loopback->abort(reason);
}

void Group::close(base::TimePoint deadline) const {
  // Side by side: one frozen peer must not eat the time in which the others get their good-bye,
  // or they would report this rank as lost.
  std::vector<std::unique_ptr<base::Task>> closing;
  for (const auto& link : links()) {
    if (!link) continue;
    try {
      closing.push_back(scheduler().spawn("close", [link, deadline] { link->close(deadline); }));
    } catch (const std::system_error&) {  // no thread to have
      link->close(deadline);
    }
  }
  for (auto& task : closing) task->join();
  if (context_->loopback) context_->loopback->close(deadline);
}

}  // namespace gearshift::group
