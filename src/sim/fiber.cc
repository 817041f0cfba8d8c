#include "sim/fiber.h"

#include <memory>
#include <utility>

namespace gearshift::sim {

namespace {

/// What Boost's registers, and its frame below a function that switches, take at most.
constexpr std::size_t kSwitchBytes = 128, kFirstFrameBytes = 768;

/// One of the pooled stacks, for one fiber.
class StackAllocator {
 public:
  StackAllocator(Stacks& stacks, std::size_t lower) : stacks_(&stacks), lower_(lower) {}

  boost::context::stack_context allocate() {
    boost::context::stack_context stack;
    stack.size = stacks_->bytes() - lower_;
    stack.sp = stacks_->take() + stack.size;
    return stack;
  }
  void deallocate(boost::context::stack_context& stack) noexcept {
    stacks_->give_back(static_cast<std::byte*>(stack.sp) - stack.size);
  }

 private:
  Stacks* stacks_;
  std::size_t lower_;
};

}  // namespace

void Fiber::make(Stacks& stacks, std::size_t lower, std::function<Fiber&()> body) {
  StackAllocator allocator(stacks, lower);
  const boost::context::stack_context memory = allocator.allocate();
  auto* const end = static_cast<std::byte*>(memory.sp);
  marks_ = StackMarks(end - memory.size, memory.size);
  top_ = reinterpret_cast<const char*>(end) - kFirstFrameBytes;
  context_.fiber = boost::context::fiber(
      std::allocator_arg, boost::context::preallocated(memory.sp, memory.size, memory), allocator,
      [this, body = std::move(body)](boost::context::fiber&& from) {
        arrive(std::move(from));
        return std::move(leave(body()).context_.fiber);
      });
}

void Fiber::switch_to(Fiber& to) {
  top_ = static_cast<const char*>(__builtin_frame_address(0)) - kSwitchBytes;
  arrive(std::move(leave(to).context_.fiber).resume());
}

Fiber& Fiber::leave(Fiber& to) {
  to.before_ = this;
  marks_.leave(to.marks_);
  return to;
}

/// Boost says in whose middle we are now: of the fiber that left for this, unless that has ended.
void Fiber::arrive(boost::context::fiber from) {
  marks_.arrive(before_->marks_);
  before_->context_.fiber = std::move(from);
}

}  // namespace gearshift::sim
