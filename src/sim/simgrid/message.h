#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "gearshift/base/bytes.h"
#include "gearshift/transport/connection.h"
#include "sim/simgrid/recycled.h"
#include "sim/simgrid/scheduler.h"

namespace gearshift::sim {

/// A posted send, which is done when its last byte has left, and the message that it sends. A
/// simulation has millions of them at once, so all of it is one piece of memory.
class Message final : public transport::RequestState {
 public:
  Message(SimScheduler& scheduler, transport::Tag its_tag, base::ConstBytes its_head,
          base::ConstBytes its_body)
      : tag(its_tag),
        body(base::is_phantom(its_body) ? base::Buffer::phantom(its_body.size())
                                        : base::Buffer::copy_of(its_body)),
        head_bytes_(static_cast<std::uint32_t>(its_head.size())),
        scheduler_(scheduler) {
    if (head_bytes_ > kShort) long_head_ = std::make_unique<std::byte[]>(head_bytes_);
    std::copy(its_head.begin(), its_head.end(), long_head_ ? long_head_.get() : short_head_.data());
  }

  base::Status wait(base::TimePoint deadline) override;
  bool done() const override { return done_; }
  bool when_done(std::function<void()> then) override;
  void finish(const base::Error* error);

  base::ConstBytes head() const {
    return {long_head_ ? long_head_.get() : short_head_.data(), head_bytes_};
  }
  std::uint64_t bytes() const { return head_bytes_ + body.size(); }

  const transport::Tag tag;
  const base::Buffer body;
  int to_leave = 1, to_arrive = 1;  ///< frames

 private:
  static constexpr std::size_t kShort = 32;  ///< those of requests to parameter servers fit

  const std::uint32_t head_bytes_;
  bool done_ = false;
  SimScheduler& scheduler_;
  Actor* waiter_ = nullptr;
  std::unique_ptr<std::vector<Actor*>> more_waiters_;  ///< of which there are none, normally
  std::unique_ptr<base::Error> error_;
  std::unique_ptr<std::function<void()>> then_;
  std::array<std::byte, kShort> short_head_;
  std::unique_ptr<std::byte[]> long_head_;
};

/// A message, or a chunk of a large one, as a stream puts it on the wire.
struct Frame {
  Frame(std::shared_ptr<Message> its_message, base::TimePoint is_ready, std::uint64_t its_bytes,
        bool is_whole)
      : message(std::move(its_message)), ready(is_ready), bytes(its_bytes), whole(is_whole) {}
  static void* operator new(std::size_t bytes);
  static void operator delete(void* memory);

  const std::shared_ptr<Message> message;
  const base::TimePoint ready;  ///< when the sender's processor is done with the message
  const std::uint64_t bytes;
  const bool whole;
  std::unique_ptr<Frame> next;  ///< behind it in its queue
};

inline void* Frame::operator new(std::size_t) { return Recycled<sizeof(Frame)>::take(); }
inline void Frame::operator delete(void* memory) { Recycled<sizeof(Frame)>::give_back(memory); }

/// Frames that wait in order. They move from queue to queue without a copy.
class Frames {
 public:
  Frames() = default;
  ~Frames() { clear(); }
  Frames(const Frames&) = delete;
  Frames& operator=(const Frames&) = delete;

  bool empty() const { return first_ == nullptr; }
  const Frame& front() const { return *first_; }
  const Frame* first() const { return first_.get(); }
  void push_back(std::unique_ptr<Frame> frame) {
    Frame* const last = frame.get();
    (first_ ? last_->next : first_) = std::move(frame);
    last_ = last;
  }
  std::unique_ptr<Frame> pop_front() {
    std::unique_ptr<Frame> frame = std::move(first_);
    first_ = std::move(frame->next);
    return frame;
  }
  /// One by one: they own each other.
  void clear() {
    while (first_) first_ = std::move(first_->next);
  }
  template <typename F>
  void for_each(F f) const {
    for (const Frame* frame = first_.get(); frame != nullptr; frame = frame->next.get()) f(*frame);
  }

 private:
  std::unique_ptr<Frame> first_;
  Frame* last_ = nullptr;
};

}  // namespace gearshift::sim
