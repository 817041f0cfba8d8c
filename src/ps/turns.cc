#include "ps/turns.h"

#include <algorithm>

namespace gearshift::ps {

Turns::Turns(int workers, const AtOnce& at_once)
    : at_once_(at_once), queues_(static_cast<std::size_t>(workers)) {}

void Turns::add(const Answer& answer) {
  Queue& queue = of(answer.worker);
  if (queue.waiting.empty()) {
    // Slices of one request may come one by one; the turn stays the same.
    if (queue.turn == 0 || queue.request != answer.request) queue.turn = ++turns_;
    waiting_.emplace(queue.turn, answer.worker);
  }
  queue.request = answer.request;
  queue.waiting.push_back(answer);
}

/// Whether as much is under way as there may be.
bool Turns::full(base::TimePoint now) {
  if (under_way_ < at_once_.most()) return false;
  for (const int worker : served_) {
    Queue& queue = of(worker);
    if (!queue.counts || now - queue.moved < kStalled) continue;
    queue.counts = false;
    under_way_ -= queue.under_way;
  }
  return under_way_ >= at_once_.most();
}

std::optional<Turns::Answer> Turns::next(base::TimePoint now) {
  if (waiting_.empty() || full(now)) return std::nullopt;
  // Passes over those that are served: no more than the few that may be.
  const auto has_room = [&](const auto& turn) {
    return of(turn.second).under_way < at_once_.window();
  };
  const auto turn = std::find_if(waiting_.begin(), waiting_.end(), has_room);
  if (turn == waiting_.end()) return std::nullopt;
  const int worker = turn->second;
  Queue& queue = of(worker);
  const bool was_busy = at_once_.is_busy(under_way_, served_.size());
  if (queue.under_way++ == 0) {
    queue.moved = now;
    served_.insert(worker);
  }
  if (queue.counts) ++under_way_;
  if (!was_busy && at_once_.is_busy(under_way_, served_.size())) busy_since_ = now;
  const Answer answer = queue.waiting.front();
  queue.waiting.pop_front();
  if (queue.waiting.empty()) waiting_.erase(turn);
  return answer;
}

void Turns::left(int worker, base::TimePoint now) {
  Queue& queue = of(worker);
  if (queue.counts && at_once_.is_busy(under_way_, served_.size())) {
    at_once_.left(now - busy_since_);
  } else if (under_way_ < at_once_.most()) {
    at_once_.left_idle();
  }
  --queue.under_way;
  queue.moved = now;
  if (queue.counts) {
    --under_way_;
  } else {
    queue.counts = true;
    under_way_ += queue.under_way;
  }
  if (queue.under_way == 0) served_.erase(worker);
  busy_since_ = now;
}

std::optional<Turns::Answer> Turns::any() {
  if (waiting_.empty()) return std::nullopt;
  const auto turn = waiting_.begin();
  Queue& queue = of(turn->second);
  const Answer answer = queue.waiting.front();
  queue.waiting.pop_front();
  if (queue.waiting.empty()) waiting_.erase(turn);
  return answer;
}

}  // namespace gearshift::ps
