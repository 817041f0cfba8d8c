#pragma once

#include <boost/context/fiber.hpp>
#include <cstddef>
#include <functional>

#include "sim/address_sanitizer.h"
#include "sim/stacks.h"

namespace gearshift::sim {

/// A function on a stack of its own, or (as long as none is made) whatever runs now: what can be
/// left in the middle and gone on with later. By Boost.Context. Stays where it is.
///
/// Within one thread, and without any locks. An exception must not leave the function: it ends the
/// process. Nor may a fiber be left within a `catch`: the exceptions that are being handled belong
/// to the thread.
class Fiber {
 public:
  Fiber() = default;
  /// One that has not ended is forgotten together with what its stack holds. Boost would unwind it,
  /// but destructors that wait, for others that were left in the middle, would wait for ever.
  ~Fiber() = default;
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  /// `body` runs at the first switch to here and returns who goes on when it has ended; it must not
  /// be empty. The stack, which lives as long as `stacks`, goes back to them then. It begins so
  /// many bytes below its memory's end. Throws std::bad_alloc.
  void make(Stacks& stacks, std::size_t lower, std::function<Fiber&()> body);
  /// Leaves this, which runs now, for another; returns when somebody leaves theirs for this.
  void switch_to(Fiber& to);
  /// Asks the processor for what a switch to here will read.
  void prefetch() const {
    constexpr int kLines = 32, kLine = 64;
    for (int i = 0; i < kLines; ++i) __builtin_prefetch(top_ + i * kLine);
  }

 private:
  /// What Boost's destructor is kept from.
  union Context {
    Context() : fiber() {}
    ~Context() {}
    boost::context::fiber fiber;
  };

  Fiber& leave(Fiber& to);
  void arrive(boost::context::fiber from);

  Context context_;            ///< what to resume; empty while it runs, and at the end
  const char* top_ = nullptr;  ///< of the stack, roughly
  Fiber* before_ = nullptr;    ///< who left for this
  [[no_unique_address]] StackMarks marks_;
};

}  // namespace gearshift::sim
