#include "gearshift/collectives/arrivals.h"

#include <utility>

#include "collectives/operation.h"

namespace gearshift::collectives {
namespace {

Operation awaited(group::Group& group, std::uint32_t number) {
  return Operation::point_to_point(group, "recv", {}, number);
}

}  // namespace

Arrivals::Arrivals(group::Group& group)
    : group_(group),
      expected_(static_cast<std::size_t>(group.size())),
      news_(std::make_shared<base::Channel<std::optional<base::Rank>>>(group.scheduler())) {}

Arrivals::~Arrivals() {
  for (const Expected& one : expected_) (void)one.request.wait(group_.scheduler().now());
}

void Arrivals::expect(base::Rank from, std::size_t bytes) {
  Expected& one = at(from);
  one.number = group_.next_recv(from);
  one.message.resize(bytes);
  one.request = group_.link(from).recv(awaited(group_, one.number).tag(0), one.message);
  // Where nobody tells, `take` waits.
  const bool told = one.request.when_done([news = news_, from] { news->push(from); });
  if (!told) news_->push(from);
}

std::optional<base::Rank> Arrivals::next(base::TimePoint deadline) {
  const auto rank = news_->pop(deadline);
  return rank ? *rank : std::nullopt;
}

base::Result<std::vector<std::byte>> Arrivals::take(base::Rank from) {
  Expected& one = at(from);
  const base::Status came =
      awaited(group_, one.number).await_recv(std::exchange(one.request, {}), from.value, {});
  if (!came) return came.error();
  return std::move(one.message);
}

void Arrivals::wake() { news_->push(std::nullopt); }

}  // namespace gearshift::collectives
