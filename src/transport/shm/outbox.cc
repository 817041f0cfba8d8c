#include "transport/shm/outbox.h"

#include <algorithm>
#include <cstring>

namespace gearshift::transport::shm {

std::shared_ptr<SendProgress> Outbox::add(Tag tag, base::ConstBytes head, base::ConstBytes body) {
  FrameHeader header;
  header.tag = tag.value;
  header.check = tag.check;
  header.body_bytes = body.size();
  header.head_bytes = static_cast<std::uint32_t>(head.size());
  messages_.fetch_add(1, std::memory_order_relaxed);
  if (put_at_once(header, head, body)) return nullptr;
  auto progress = std::make_shared<SendProgress>();
  enqueue(header, head, body, progress);
  return progress->done.load(std::memory_order_relaxed) ? nullptr : progress;
}

std::shared_ptr<SendProgress> Outbox::add_goodbye() {
  FrameHeader header;
  header.kind = FrameHeader::Kind::kGoodbye;
  if (put_at_once(header, {}, {})) return nullptr;
  auto progress = std::make_shared<SendProgress>();
  enqueue(header, {}, {}, progress);
  return progress->done.load(std::memory_order_relaxed) ? nullptr : progress;
}

std::shared_ptr<SendProgress> Outbox::add_lent(Tag tag, base::ConstBytes head,
                                               std::size_t body_bytes, LentBody place) {
  FrameHeader header;
  header.kind = FrameHeader::Kind::kLent;
  header.tag = tag.value;
  header.check = tag.check;
  header.body_bytes = body_bytes;
  header.head_bytes = static_cast<std::uint32_t>(head.size());
  place.ticket = ++last_ticket_;
  std::vector<std::byte> rest(head.begin(), head.end());
  const base::ConstBytes where = base::bytes_of(place);
  rest.insert(rest.end(), where.begin(), where.end());

  messages_.fetch_add(1, std::memory_order_relaxed);
  bytes_.fetch_add(body_bytes, std::memory_order_relaxed);
  auto progress = std::make_shared<SendProgress>();
  lent_.emplace(place.ticket, progress);
  if (!put_at_once(header, rest, {})) enqueue(header, rest, {}, nullptr);
  return progress;
}

void Outbox::returned(std::uint64_t ticket) {
  const auto found = lent_.find(ticket);
  if (found == lent_.end()) return;  // nobody waits any more
  finish(*found->second, std::nullopt);
  lent_.erase(found);
}

void Outbox::add_notice(FrameHeader::Kind kind, std::uint64_t number) {
  FrameHeader header;
  header.kind = kind;
  header.tag = number;
  if (!put_at_once(header, {}, {})) enqueue(header, {}, {}, nullptr);
}

std::size_t Outbox::space() {
  const auto space = ring_.space();
  if (!space) corrupt_ = true;
  return space.value_or(0);
}

bool Outbox::put_at_once(const FrameHeader& header, base::ConstBytes head, base::ConstBytes body) {
  const std::size_t size = sizeof header + head.size() + body.size();
  // A larger body is better moved in pieces, which the reader takes while the next is copied.
  if (!queue_.empty() || size > kPieceBytes || size > space()) {
    return false;
  }
  ring_.put(base::bytes_of(header));
  ring_.put(head);
  ring_.put(body);
  ring_.publish();
  bytes_.fetch_add(size, std::memory_order_relaxed);
  return true;
}

void Outbox::enqueue(const FrameHeader& header, base::ConstBytes head, base::ConstBytes body,
                     std::shared_ptr<SendProgress> progress) {
  Message message;
  message.prefix.resize(sizeof header + head.size());
  std::memcpy(message.prefix.data(), &header, sizeof header);
  if (!head.empty()) {
    std::memcpy(message.prefix.data() + sizeof header, head.data(), head.size());
  }
  message.body = body;
  message.progress = std::move(progress);
  queue_.push_back(std::move(message));
  pending_.store(true);
  push(ring_.capacity());
}

bool Outbox::push(std::size_t budget) {
  std::size_t total = 0;
  while (!queue_.empty() && total < budget) {
    const std::size_t fits = space();
    Message& message = queue_.front();
    // A header is never split: bytes in a ring always let the reader go on.
    if (fits == 0 || (message.done == 0 && fits < sizeof(FrameHeader))) break;
    const std::size_t copied = copy_some(message, std::min(fits, kPieceBytes));
    total += copied;
    bytes_.fetch_add(copied, std::memory_order_relaxed);
    ring_.publish();
    if (message.done < message.prefix.size() + message.body.size()) continue;
    if (message.progress) finish(*message.progress, std::nullopt);
    queue_.pop_front();
  }
  if (queue_.empty()) pending_.store(false);
  return total > 0;
}

std::size_t Outbox::copy_some(Message& message, std::size_t limit) {
  std::size_t copied = 0;
  if (message.done < message.prefix.size()) {
    const std::size_t size = std::min(limit, message.prefix.size() - message.done);
    ring_.put(base::slice(base::ConstBytes(message.prefix), message.done, size));
    message.done += size;
    copied += size;
  }
  if (copied < limit && message.done >= message.prefix.size()) {
    const std::size_t at = message.done - message.prefix.size();
    const std::size_t size = std::min(limit - copied, message.body.size() - at);
    ring_.put(base::slice(message.body, at, size));
    message.done += size;
    copied += size;
  }
  return copied;
}

Outbox::Withdrawn Outbox::withdraw(const std::shared_ptr<SendProgress>& progress) {
  if (progress->done.load(std::memory_order_relaxed)) return Withdrawn::kDone;
  const auto lent = std::find_if(lent_.begin(), lent_.end(),
                                 [&](const auto& entry) { return entry.second == progress; });
  if (lent != lent_.end()) {
    lent_.erase(lent);
    return Withdrawn::kRemoved;
  }
  const auto found = std::find_if(queue_.begin(), queue_.end(),
                                  [&](const Message& m) { return m.progress == progress; });
  if (found == queue_.end()) return Withdrawn::kDone;
  if (found->done > 0) return Withdrawn::kHalfSent;
  queue_.erase(found);
  messages_.fetch_sub(1, std::memory_order_relaxed);
  if (queue_.empty()) pending_.store(false);
  return Withdrawn::kRemoved;
}

void Outbox::fail(const base::Error& error) {
  for (Message& message : queue_) {
    if (message.progress) finish(*message.progress, error);
  }
  queue_.clear();
  for (const auto& [ticket, progress] : lent_) finish(*progress, error);
  lent_.clear();
  pending_.store(false);
}

void Outbox::finish(SendProgress& progress, std::optional<base::Error> error) {
  progress.error = std::move(error);
  progress.done.store(true, std::memory_order_release);
  finished_ = true;
}

}  // namespace gearshift::transport::shm
