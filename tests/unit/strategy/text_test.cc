// Python's tests compare both readers on many texts (tests/python/core/test_strategy.py).

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "gearshift/strategy/config.h"

namespace gearshift::strategy {
namespace {

using ::testing::HasSubstr;

std::string error_of(std::string_view text) {
  const auto parsed = parse(text);
  return parsed.ok() ? "no error" : parsed.error().message;
}

TEST(Text, HoldsAWholeStrategy) {
  const auto parsed = parse(
      " Switch(start=ps:ssp(3, shards=2, bucket_mb=8), then=all-reduce:ring, at=0.5, back=70)");
  ASSERT_TRUE(parsed.ok()) << parsed.error().message;
  EXPECT_EQ(parsed->bucket_bytes, std::size_t{8} << 20) << "of the phase that it starts with";
  EXPECT_EQ(parse("all_reduce(bucket_mb=auto)")->bucket_bytes, std::nullopt);
  const auto& change = std::get<StrategySwitch>(parsed->kind);
  const auto& server = std::get<ParameterServer>(change.start);
  EXPECT_EQ(server.consistency.to_string(), "ssp(3)");
  EXPECT_EQ(server.shards, 2);
  EXPECT_EQ(std::get<AllReduce>(change.then).algorithm, collectives::Algorithm::kRing);
  EXPECT_EQ(change.policy->known_step(100), 50);
  EXPECT_EQ(change.back->known_step(100), 70);
}

TEST(Text, SaysWhatGradientsTravelAs) {
  const auto one = parse("all_reduce:ring(compression=bf16)");
  ASSERT_TRUE(one.ok()) << one.error().message;
  EXPECT_EQ(std::get<AllReduce>(one->kind).compression, Compression::kBf16);
  EXPECT_NE(one->to_string(), parse("all_reduce:ring")->to_string()) << "ranks compare it";
  const auto other = parse("ps:ssp(2, compression=bf16)");
  ASSERT_TRUE(other.ok()) << other.error().message;
  EXPECT_EQ(std::get<ParameterServer>(other->kind).compression, Compression::kBf16);
  EXPECT_NE(other->to_string(), parse("ps:ssp(2)")->to_string());
}

TEST(Text, HasTheDefaultsOfTheValues) {
  for (const auto& [text, kind] : std::vector<std::pair<std::string, decltype(Strategy::kind)>>{
           {"all_reduce", AllReduce{}},
           {"ps", ParameterServer{}},
           {"switch", StrategySwitch{}},
           {"switch(then=ps:asp)", StrategySwitch{}}}) {
    const auto parsed = parse(text);
    ASSERT_TRUE(parsed.ok()) << parsed.error().message;
    Strategy value;
    value.kind = kind;
    EXPECT_EQ(parsed->to_string(), value.to_string());
  }
}

TEST(Text, SaysWhatIsWrong) {
  EXPECT_THAT(error_of("gossip"), HasSubstr("strategy 'gossip' is none of 'all_reduce'"));
  EXPECT_THAT(error_of("ps(speed=3)"), HasSubstr("unknown option 'speed=3'; there are: shards"));
  EXPECT_THAT(error_of("ps:bsp(shards=x)"), HasSubstr("shards=x is no whole number from 1"));
  EXPECT_THAT(error_of("ps(bucket_mb=large)"),
              HasSubstr("bucket_mb=large is no positive number up to a billion, nor auto"));
  EXPECT_THAT(error_of("ps(compression=zip)"), HasSubstr("compression=zip is none of none, bf16"));
  EXPECT_THAT(error_of("switch(at=1.5)"), HasSubstr("at=1.5 is neither a step"));
  EXPECT_THAT(error_of("switch(at=10, back=5)"), HasSubstr("back=5 would never happen"));
  EXPECT_THAT(error_of("switch(at=0.5, back=0.5)"), HasSubstr("back=0.5 would never happen"));
  EXPECT_EQ(error_of("switch(at=10, back=0.5)"), "no error");
  EXPECT_THAT(error_of("switch(then=ps:soon)"), HasSubstr("consistency 'soon'"));
}

}  // namespace
}  // namespace gearshift::strategy
