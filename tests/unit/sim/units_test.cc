#include "sim/units.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "sim/suggest.h"

namespace gearshift::sim {
namespace {

TEST(Rate, CountsBitsAsTcDoes) {
  EXPECT_EQ(*parse_rate("1 Gbit/s"), 125e6);
  EXPECT_EQ(*parse_rate("1G"), 125e6);
  EXPECT_EQ(*parse_rate("100M"), 12.5e6);
  EXPECT_EQ(*parse_rate("100mbit"), 12.5e6);
  EXPECT_EQ(*parse_rate("64 kbit"), 8e3);
  EXPECT_EQ(*parse_rate("8 bit/s"), 1);
  EXPECT_EQ(*parse_rate("1 Tb/s"), 125e9);
  EXPECT_EQ(*parse_rate("1 Gibit/s"), std::exp2(27));
}

TEST(Rate, CountsBytesWithACapitalB) {
  EXPECT_DOUBLE_EQ(*parse_rate("119.6 MB/s"), 119.6e6);
  EXPECT_EQ(*parse_rate(" 2GB/s "), 2e9);
  EXPECT_EQ(*parse_rate("7 B/s"), 7);
  EXPECT_EQ(*parse_rate("1.5e3 kB/s"), 1.5e6);
  EXPECT_EQ(*parse_rate("1 KiB/s"), 1024);
  EXPECT_EQ(*parse_rate("-1 MB/s"), -1e6) << "whether it may be negative is for others to say";
}

TEST(Rate, RefusesWhatHasNoClearUnit) {
  for (const char* text :
       {"", "fast", "1", "1 MB", "10 m/s", "1 Gbit/s/s", "GB/s", "1e999 B/s", "1 G bit"}) {
    const auto rate = parse_rate(text);
    ASSERT_FALSE(rate.ok()) << text;
    EXPECT_EQ(rate.error().code, base::ErrorCode::kInvalidArgument);
    EXPECT_NE(rate.error().message.find("is no rate"), std::string::npos) << text;
  }
  for (const char* text : {"10 Gbps", "10 MBps"}) {
    const auto rate = parse_rate(text);
    ASSERT_FALSE(rate.ok()) << text;
    EXPECT_NE(rate.error().message.find("bits to some and bytes to others"), std::string::npos);
  }
}

TEST(Duration, TakesEachUnit) {
  EXPECT_EQ(*parse_duration("25 us"), 25e-6);
  EXPECT_EQ(*parse_duration("25\u00b5s"), 25e-6);
  EXPECT_EQ(*parse_duration("25 \u03bcs"), 25e-6);
  EXPECT_EQ(*parse_duration("7 ns"), 7e-9);
  EXPECT_EQ(*parse_duration("190 ms"), 0.19);
  EXPECT_EQ(*parse_duration("1.5s"), 1.5);
  EXPECT_EQ(*parse_duration("2 min"), 120);
  EXPECT_EQ(*parse_duration("2 h"), 7200);
  EXPECT_EQ(*parse_duration("1 d"), 86400);
}

TEST(Duration, RefusesWhatHasNoUnit) {
  for (const char* text : {"", "soon", "5", "5 m", "5 secs", "ms"}) {
    const auto time = parse_duration(text);
    ASSERT_FALSE(time.ok()) << text;
    EXPECT_NE(time.error().message.find("is no time"), std::string::npos) << text;
  }
}

TEST(Complaint, SaysWhatAValueMustBe) {
  EXPECT_EQ(complaint("a rate", 1, Bound::kPositive, "1"), "");
  EXPECT_EQ(complaint("a rate", 0, Bound::kPositive, "0"), "a rate must be positive, this is 0");
  EXPECT_EQ(complaint("a time", 0, Bound::kNotNegative, "0"), "");
  EXPECT_EQ(complaint("a time", -1, Bound::kNotNegative, "\"-1 s\""),
            "a time must not be negative, this is \"-1 s\"");
  const double infinity = std::numeric_limits<double>::infinity();
  EXPECT_EQ(complaint("a rate", infinity, Bound::kPositive, shown(infinity)),
            "a rate must be finite, this is inf");
  EXPECT_NE(complaint("a rate", std::nan(""), Bound::kNotNegative, "nan"), "");
  const Limits limits{1, 1e18, " B/s"};
  EXPECT_EQ(complaint("a rate", 1e-320, Bound::kPositive, "1e-320", limits),
            "a rate must be at least 1 B/s, this is 1e-320");
  EXPECT_EQ(complaint("a rate", 2e18, Bound::kPositive, "2e18", limits),
            "a rate must be at most 1e+18 B/s, this is 2e18");
  EXPECT_EQ(complaint("a rate", 0, Bound::kNotNegative, "0", limits), "");
  EXPECT_EQ(complaint("a rate", 1, Bound::kPositive, "1", limits), "");
}

TEST(Suggest, NamesTheNearestIfItIsNear) {
  EXPECT_EQ(did_you_mean("bandwith", {"latency", "bandwidth"}), "; did you mean \"bandwidth\"?");
  EXPECT_EQ(did_you_mean("node", {"node-0", "node-1"}), "; did you mean \"node-0\"?");
  EXPECT_EQ(did_you_mean("colour", {"latency", "bandwidth"}), "");
  EXPECT_EQ(did_you_mean("b", {"a"}), "");
  EXPECT_EQ(did_you_mean("b", {}), "");
}

}  // namespace
}  // namespace gearshift::sim
