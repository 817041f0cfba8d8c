#include "transport/tcp/arrivals.h"

namespace gearshift::transport::tcp {

using base::Bytes;
using base::Error;
using base::ErrorCode;
using base::Result;

Result<Bytes> Arrivals::begin(std::size_t stream, const Frame& frame, std::vector<std::byte> head) {
  if (frame.kind == FrameKind::kChunk) return begin_chunk(frame, std::move(head));
  GEARSHIFT_ASSIGN_OR_RETURN(whole_[stream],
                             matcher_.arrive(frame.message_tag(), head, frame.body_bytes));
  return whole_[stream]->into;
}

Result<Bytes> Arrivals::begin_chunk(const Frame& frame, std::vector<std::byte> head) {
  auto found = partials_.find(frame.message);
  if (found == partials_.end()) {
    GEARSHIFT_ASSIGN_OR_RETURN(auto landing,
                               matcher_.arrive(frame.message_tag(), {}, frame.body_bytes));
    const std::uint64_t count = frame.chunk_count();
    found = partials_
                .emplace(frame.message,
                         Partial{std::move(landing), frame, std::vector<bool>(count), count})
                .first;
  }
  Partial& partial = found->second;
  if (frame.tag != partial.first.tag || frame.body_bytes != partial.first.body_bytes ||
      frame.chunk_bytes != partial.first.chunk_bytes || partial.seen[frame.chunk]) {
    return Error(ErrorCode::kProtocol, "chunks of one message disagree");
  }
  partial.seen[frame.chunk] = true;
  if (frame.chunk == 0) partial.landing->head = std::move(head);
  return base::slice(partial.landing->into, frame.part_offset(), frame.part_bytes());
}

void Arrivals::end(std::size_t stream, const Frame& frame) {
  if (frame.kind != FrameKind::kChunk) {
    complete(whole_[stream]);
    whole_[stream].reset();
    return;
  }
  auto found = partials_.find(frame.message);
  if (--found->second.missing > 0) return;
  complete(found->second.landing);
  partials_.erase(found);
}

void Arrivals::complete(const std::shared_ptr<Matcher::Landing>& landing) {
  TrafficCounters::add(traffic_.messages_received, 1);
  if (is_service(landing->tag) && landing->tag.channel() != kHeartbeatService) ++delivered_;
  matcher_.complete(landing);
}

}  // namespace gearshift::transport::tcp
