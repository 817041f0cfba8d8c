#include "ps/at_once.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstddef>

namespace gearshift::ps {
namespace {

constexpr std::size_t kAnswers = 20;  ///< of a step

/// Serves so many steps, at so many answers per second without turns and with them; returns how
/// many of them in turns.
int serve(AtOnce& at_once, int steps, double without, double with) {
  int served = 0;
  for (int i = 0; i < steps; ++i) {
    served += at_once.in_turns() ? 1 : 0;
    for (std::size_t a = 0; a < kAnswers; ++a) {
      at_once.left(base::from_seconds(1 / (at_once.in_turns() ? with : without)));
    }
  }
  return served;
}

TEST(AtOnce, TakesTurnsWhereAFewFillTheLink) {
  AtOnce at_once(2, kAnswers);
  EXPECT_FALSE(at_once.in_turns());
  EXPECT_GT(at_once.most(), 1000);
  EXPECT_EQ(serve(at_once, 40, 100, 100), 39);
  EXPECT_EQ(at_once.most(), 4);
  EXPECT_EQ(at_once.window(), 2);
  EXPECT_GE(serve(at_once, 1000, 100, 96), 990) << "the others are trials";
}

TEST(AtOnce, DoesNotWhereTheyDoNotFillIt) {
  AtOnce at_once(2, kAnswers);
  EXPECT_LE(serve(at_once, 1000, 100, 89), 10) << "trials";
  EXPECT_FALSE(at_once.in_turns());
}

TEST(AtOnce, NoticesAnotherNetwork) {
  AtOnce at_once(2, kAnswers);
  serve(at_once, 40, 100, 100);
  serve(at_once, 120, 100, 50);
  EXPECT_FALSE(at_once.in_turns());
  serve(at_once, 400, 100, 100);
  EXPECT_TRUE(at_once.in_turns());
}

TEST(AtOnce, EndsATrialThatIsHopelessEarly) {
  AtOnce at_once(2, 800);
  for (int i = 0; i < 800; ++i) at_once.left(std::chrono::milliseconds(1));
  int answers = 0;
  while (at_once.in_turns() && answers < 800) {
    ++answers;
    at_once.left(std::chrono::milliseconds(2));
  }
  EXPECT_EQ(answers, 200);
}

TEST(AtOnce, EndsATrialInWhichTheLinkIsNotBusy) {
  AtOnce at_once(2, kAnswers);
  serve(at_once, 1, 100, 100);
  EXPECT_TRUE(at_once.in_turns()) << "a trial";
  for (std::size_t i = 0; i < kAnswers; ++i) at_once.left_idle();
  EXPECT_EQ(serve(at_once, 49, 100, 1), 49) << "it was worth nothing to end them";
}

TEST(AtOnce, BearsWhatTakesNoTime) {
  AtOnce at_once(1, 0);
  for (int i = 0; i < 1000; ++i) at_once.left(base::Duration(0));
  EXPECT_GE(at_once.most(), 2);
}

}  // namespace
}  // namespace gearshift::ps
