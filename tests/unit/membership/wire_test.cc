#include "membership/wire.h"

#include <gtest/gtest.h>

namespace gearshift::membership {
namespace {

using base::ErrorCode;

TEST(Wire, NoticesSurviveTheJourney) {
  Notice notice;
  notice.kind = NoticeKind::kFailure;
  notice.code = ErrorCode::kPeerLost;
  notice.culprit = 7;
  notice.what = "rank 7 died";
  notice.progress = {41, "all_reduce bucket 3", 0.25};
  const auto back = decode_notice(encode(notice));
  ASSERT_TRUE(back);
  EXPECT_EQ(back->kind, NoticeKind::kFailure);
  EXPECT_EQ(back->code, ErrorCode::kPeerLost);
  EXPECT_EQ(back->culprit, 7);
  EXPECT_EQ(back->what, "rank 7 died");
  EXPECT_EQ(back->progress.step, 41);
  EXPECT_EQ(back->progress.operation, "all_reduce bucket 3");
  EXPECT_EQ(back->progress.seconds_in_operation, 0.25);
}

TEST(Wire, EveryTruncationIsNoticed) {
  const std::vector<std::byte> notice = encode(Notice{});
  for (std::size_t n = 0; n < notice.size(); ++n) {
    EXPECT_FALSE(decode_notice(base::ConstBytes(notice).first(n))) << n;
  }
  const std::vector<std::byte> heartbeat = encode(ProgressNote{});
  for (std::size_t n = 0; n < heartbeat.size(); ++n) {
    EXPECT_FALSE(decode_progress(base::ConstBytes(heartbeat).first(n))) << n;
  }
}

TEST(Wire, UnknownKindsAndCodesAreRefused) {
  for (const std::size_t at : {0, 1}) {
    std::vector<std::byte> notice = encode(Notice{});
    notice[at] = std::byte{99};
    EXPECT_EQ(decode_notice(notice).error().code, ErrorCode::kProtocol);
  }
}

TEST(Wire, LongTextsAreCut) {
  Notice notice;
  notice.what = std::string(3 << 20, 'x');
  notice.progress.operation = notice.what;
  EXPECT_LT(encode(notice).size(), 5000U);
}

TEST(Wire, NoCharacterIsCutInTwo) {
  const std::string sign = "\u9519";  // three bytes
  for (const std::size_t before : {0, 1, 2}) {
    Notice notice;
    notice.what = std::string(before, 'x');
    for (int i = 0; i < 2000; ++i) notice.what += sign;
    notice.progress.operation = notice.what;
    const auto got = decode_notice(encode(notice));
    ASSERT_TRUE(got.ok());
    for (const std::string& text : {got->what, got->progress.operation}) {
      EXPECT_EQ((text.size() - before) % sign.size(), 0U);
      EXPECT_GT(text.size(), 190U);
    }
  }
}

TEST(Wire, ProgressReadsAsASentence) {
  EXPECT_EQ((ProgressNote{41, "push bucket 3", 1}.phrase()), "in push bucket 3 at step 41");
  EXPECT_EQ((ProgressNote{0, "idle", 1}.phrase()), "idle at step 0");
  EXPECT_EQ((ProgressNote{2, "idle after push", 1}.phrase()), "idle after push at step 2");
}

}  // namespace
}  // namespace gearshift::membership
