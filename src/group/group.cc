#include "gearshift/group/group.h"

#include <algorithm>
#include <cassert>
#include <utility>

namespace gearshift::group {

Group::Group(std::shared_ptr<Context> context, base::Rank rank,
             std::vector<std::shared_ptr<transport::Connection>> links, std::uint16_t channel)
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
  std::vector<std::shared_ptr<transport::Connection>> links;
  links.reserve(ranks.size());
  for (const base::Rank r : ranks) links.push_back(links_[static_cast<std::size_t>(r.value)]);
  Group part(context_, base::Rank(static_cast<int>(own - ranks.begin())), std::move(links),
             channel);
  if (topology_) {
    std::vector<int> members;
    for (const base::Rank r : ranks) members.push_back(r.value);
    part.topology_ = std::make_shared<const Topology>(topology_->subset(members));
  }
  return part;
}

bool Group::shares_memory() const {
  const auto& shares = context_->shares;
  if (size() < 2 || shares.empty()) return false;
  const auto world_rank = [&](int r) {
    const auto& link = links_[static_cast<std::size_t>(r)];
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
  for (const auto& link : links_) {
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
  for (const auto& link : links_) {
    if (link) link->abort(reason);
  }
  if (context_->loopback) context_->loopback->abort(reason);
}

void Group::close(base::TimePoint deadline) const {
  // Side by side: one frozen peer must not eat the time in which the others get their good-bye,
  // or they would report this rank as lost.
  std::vector<std::unique_ptr<base::Task>> closing;
  for (const auto& link : links_) {
    if (!link) continue;
    closing.push_back(scheduler().spawn("close", [link, deadline] { link->close(deadline); }));
  }
  for (auto& task : closing) task->join();
  if (context_->loopback) context_->loopback->close(deadline);
}

}  // namespace gearshift::group
