#include "sim/fiber.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/lsan_interface.h>
#endif

namespace gearshift::sim::testing {
namespace {

constexpr std::size_t kFiberStack = std::size_t{256} << 10;

/// Frames that the compiler must not merge, so many times 512 bytes.
int descend(int frames) {
  volatile char room[512];
  room[0] = static_cast<char>(frames);
  return frames == 0 ? 0 : descend(frames - 1) + (room[0] == static_cast<char>(frames) ? 1 : 0);
}

class FiberTest : public ::testing::Test {
 protected:
  /// Ends outside.
  void make(Fiber& fiber, std::function<void()> body) {
    fiber.make(stacks, 0, [this, body = std::move(body)]() -> Fiber& {
      body();
      return outside;
    });
  }

  Stacks stacks{kFiberStack};
  Fiber outside;
};

TEST_F(FiberTest, GoesOnWhereItWasLeft) {
  Fiber fiber;
  std::string story;
  make(fiber, [&] {
    for (const char* part : {"b", "d"}) {
      story += part;
      fiber.switch_to(outside);
    }
    story += "f";
  });
  for (const char* part : {"a", "c", "e"}) {
    story += part;
    outside.switch_to(fiber);
  }
  EXPECT_EQ(story, "abcdef");
}

TEST_F(FiberTest, LeavesForAnyOther) {
  Fiber first, second, third;
  std::string story;
  make(first, [&] {
    story += "1";
    first.switch_to(second);
    story += "4";
    first.switch_to(third);
    story += "6";
  });
  make(second, [&] {
    story += "2";
    second.switch_to(third);
    story += "7";
  });
  make(third, [&] {
    story += "3";
    third.switch_to(first);
    story += "5";
  });
  outside.switch_to(first);
  outside.switch_to(first);
  outside.switch_to(second);
  EXPECT_EQ(story, "1234567");
}

TEST_F(FiberTest, OneThatEndsMaySayWhoGoesOn) {
  Fiber first, second;
  std::string story;
  make(second, [&] { story += "2"; });
  first.make(stacks, 0, [&]() -> Fiber& {
    story += "1";
    return second;
  });
  outside.switch_to(first);
  EXPECT_EQ(story, "12");
}

TEST_F(FiberTest, StacksAreUsedAgain) {
  std::set<const void*> places;
  for (int i = 0; i < 100; ++i) {
    Fiber fiber;
    make(fiber, [&] {
      EXPECT_EQ(descend(100), 100);
      places.insert(__builtin_frame_address(0));
    });
    outside.switch_to(fiber);
  }
  EXPECT_EQ(places.size(), 1U);
}

TEST_F(FiberTest, ReachesFarDown) {
  Fiber fiber;
  const int frames = static_cast<int>(kFiberStack / 2 / 1024);
  make(fiber, [&] { EXPECT_EQ(descend(frames), frames); });
  outside.switch_to(fiber);
}

TEST_F(FiberTest, CatchesItsOwnExceptions) {
  std::string story;
  std::vector<Fiber> fibers(3);
  for (Fiber& fiber : fibers) {
    make(fiber, [&] {
      for (int i = 0; i < 2; ++i) {
        try {
          fiber.switch_to(outside);
          throw std::runtime_error("x");
        } catch (const std::runtime_error& error) {
          story += error.what();
        }
      }
    });
  }
  for (int round = 0; round < 3; ++round) {
    for (Fiber& fiber : fibers) outside.switch_to(fiber);
  }
  EXPECT_EQ(story, "xxxxxx");
}

struct Noted {
  bool& gone;
  ~Noted() { gone = true; }
};

TEST_F(FiberTest, IsForgottenInTheMiddle) {
#if defined(__SANITIZE_ADDRESS__)
  const __lsan::ScopedDisabler forgotten;  // with what its stack holds
#endif
  bool ended = false, left = false;
  {
    Fiber one, other;
    make(one, [&] { const Noted noted{ended}; });
    make(other, [&] {
      const Noted noted{left};
      other.switch_to(outside);
    });
    outside.switch_to(one);
    outside.switch_to(other);
  }
  EXPECT_TRUE(ended);
  EXPECT_FALSE(left);
}

TEST_F(FiberTest, AnExceptionThatNobodyCatchesEndsTheProcess) {
  const auto run = [this] {
    Fiber fiber;
    make(fiber, [] { throw std::runtime_error("nobody wants it"); });
    outside.switch_to(fiber);
  };
  EXPECT_DEATH(run(), "nobody wants it");
}

TEST_F(FiberTest, AnOverflowEndsTheProcess) {
  const auto run = [this] {
    Fiber fiber;
    make(fiber, [] { std::_Exit(descend(1 << 20) > 0 ? 0 : 1); });
    outside.switch_to(fiber);
  };
  EXPECT_DEATH(run(), "");
}

TEST(Stacks, LieAboveAGuard) {
  Stacks stacks(kFiberStack);
  for (int i = 0; i < 40; ++i) {
    std::byte* const stack = stacks.take();
    stack[0] = stack[kFiberStack - 1] = std::byte{1};
    if (i % 13 != 0) continue;
    volatile std::byte* const below = stack;
    EXPECT_DEATH(*(below - 1) = std::byte{1}, "");
    EXPECT_DEATH(*(below - Stacks::kGuardBytes) = std::byte{1}, "");
  }
}

TEST(Stacks, MayBeMoreThanTheKernelGuards) {
  Stacks stacks(std::size_t{64} << 10);
  std::set<std::byte*> taken;
  for (int i = 0; i < 40'000; ++i) {
    std::byte* const stack = stacks.take();
    taken.insert(stack);
    if (i % 1000 == 0) stack[0] = stack[stacks.bytes() - 1] = std::byte{1};
  }
  EXPECT_EQ(taken.size(), 40'000U);
  for (std::byte* stack : taken) stacks.give_back(stack);
  EXPECT_TRUE(taken.contains(stacks.take()));
}

}  // namespace
}  // namespace gearshift::sim::testing
