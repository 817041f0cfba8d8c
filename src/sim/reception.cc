#include "sim/reception.h"

#include <algorithm>
#include <iterator>

namespace gearshift::sim {

base::TimePoint Reception::take_in(base::TimePoint there, base::Duration cost,
                                   base::TimePoint now) {
  if (cost <= base::Duration::zero()) return there;
  while (!busy_.empty() && busy_.front().end <= now) busy_.pop_front();
  // Behind all others, nearly always.
  auto next = busy_.end();
  base::TimePoint begin = there;
  if (!busy_.empty() && there < busy_.back().end) {
    next = std::find_if(busy_.begin(), busy_.end(), [&](const Busy& busy) {
      if (busy.end <= begin) return false;
      if (begin + cost <= busy.begin) return true;
      begin = busy.end;
      return false;
    });
  }
  const base::TimePoint end = begin + cost;
  const bool follows = next != busy_.begin() && std::prev(next)->end == begin;
  const bool leads = next != busy_.end() && next->begin == end;
  if (follows && leads) {
    std::prev(next)->end = next->end;
    busy_.erase(next);
  } else if (follows) {
    std::prev(next)->end = end;
  } else if (leads) {
    next->begin = begin;
  } else {
    busy_.insert(next, {begin, end});
  }
  return end;
}

}  // namespace gearshift::sim
