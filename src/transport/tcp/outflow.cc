#include "transport/tcp/outflow.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <array>
#include <cerrno>
#include <limits>

namespace gearshift::transport::tcp {
namespace {

/// The parts of a frame that are still to be written.
std::size_t gather(const Outgoing& out, std::array<iovec, 3>& pieces) {
  std::uint64_t skip = out.written;
  std::size_t count = 0;
  for (base::ConstBytes piece : {base::bytes_of(out.frame), out.head, out.body}) {
    if (skip >= piece.size()) {
      skip -= piece.size();
      continue;
    }
    piece = piece.subspan(skip);
    skip = 0;
    pieces[count++] = {const_cast<std::byte*>(piece.data()), piece.size()};
  }
  return count;
}

}  // namespace

bool Outflow::post(Outgoing out) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (stopped_ || bye_wanted_) return false;
  const bool idle = !current_ && whole_.empty() && chunks_.empty() && !refused_;
  if (idle) {
    current_ = std::move(out);
    write_some(std::numeric_limits<std::uint64_t>::max());
    if (current_ && current_->kept_head.empty() && !current_->head.empty()) {
      current_->kept_head.assign(current_->head.begin(), current_->head.end());
      current_->head = current_->kept_head;
    }
    return true;
  }
  out.kept_head.assign(out.head.begin(), out.head.end());
  auto& queue = out.frame.kind == FrameKind::kChunk ? chunks_ : whole_;
  Outgoing& queued = queue.emplace_back(std::move(out));
  queued.head = queued.kept_head;
  return true;
}

void Outflow::on_writable() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!stopped_) write_some(kTurnBytes);
}

void Outflow::say_bye() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (stopped_ || bye_wanted_) return;
  bye_wanted_ = true;
  write_some(std::numeric_limits<std::uint64_t>::max());
}

bool Outflow::drained() {
  std::lock_guard<std::mutex> lock(mutex_);
  return bye_written_ || refused_ || stopped_;
}

void Outflow::withdraw(const SendState& state, const base::Error& error) {
  std::vector<std::shared_ptr<SendState>> taken;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    auto take = [&](const Outgoing& out) {
      if (out.state.get() != &state || out.written > 0) return false;
      taken.push_back(out.state);
      return true;
    };
    std::erase_if(whole_, take);
    std::erase_if(chunks_, take);
    if (current_ && take(*current_)) current_.reset();
  }
  for (const auto& part : taken) part->part_done(error);
}

std::vector<Outgoing> Outflow::stop() {
  std::lock_guard<std::mutex> lock(mutex_);
  stopped_ = true;
  std::vector<Outgoing> unfinished;
  if (current_) unfinished.push_back(*std::move(current_));
  current_.reset();
  for (auto* queue : {&whole_, &chunks_}) {
    for (Outgoing& out : *queue) unfinished.push_back(std::move(out));
    queue->clear();
  }
  return unfinished;
}

void Outflow::write_some(std::uint64_t budget) {
  for (std::uint64_t total = 0; total < budget && !refused_ && next();) {
    const std::uint64_t written = write_current();
    if (written == 0) return;
    total += written;
  }
  arm(!refused_ && next());
}

/// Makes `current_` the frame to be written, if there is any.
bool Outflow::next() {
  if (current_) return true;
  for (auto* queue : {&whole_, &chunks_}) {
    if (queue->empty()) continue;
    current_ = std::move(queue->front());
    queue->pop_front();
    return true;
  }
  if (bye_wanted_ && !bye_begun_) {
    bye_begun_ = true;
    current_.emplace().frame.kind = FrameKind::kBye;
  }
  return current_.has_value();
}

/// One system call. Returns 0 when the socket takes no more now.
std::uint64_t Outflow::write_current() {
  Outgoing& out = *current_;
  std::array<iovec, 3> pieces;
  msghdr message{};
  message.msg_iov = pieces.data();
  message.msg_iovlen = gather(out, pieces);
  ssize_t sent = 0;
  do {
    sent = ::sendmsg(fd_.get(), &message, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) {
    const bool full =
        errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS || errno == ENOMEM;
    if (!full) refused_ = true;
    arm(full);
    return 0;
  }
  const auto written = static_cast<std::uint64_t>(sent);
  out.written += written;
  TrafficCounters::add(traffic_.bytes_sent, written);
  if (!out.body.empty()) TrafficCounters::add(traffic_.payload_sent, written);
  if (out.state) out.state->begun.store(true, std::memory_order_relaxed);
  if (out.written < out.size()) return written;
  if (out.frame.kind == FrameKind::kBye) {
    bye_written_ = true;
  } else if (out.frame.chunk == 0) {
    TrafficCounters::add(traffic_.messages_sent, 1);
  }
  if (out.state) out.state->part_done(std::nullopt);
  current_.reset();
  return written;
}

void Outflow::arm(bool wanted) {
  if (wanted == armed_) return;
  armed_ = wanted;
  arm_(wanted);
}

}  // namespace gearshift::transport::tcp
