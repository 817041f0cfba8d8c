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

TEST(Text, SaysHowOftenParametersAreAveraged) {
  for (const std::string text : {"local_sgd(4)", "local_sgd(every=4)", "Local-SGD( 4 )"}) {
    const auto parsed = parse(text);
    ASSERT_TRUE(parsed.ok()) << parsed.error().message;
    EXPECT_EQ(std::get<LocalSgd>(parsed->kind).every, 4) << text;
  }
  const auto parsed =
      parse("local_sgd(100, outer_lr=0.7, outer_momentum=0.9, compression=bf16, bucket_mb=2)");
  ASSERT_TRUE(parsed.ok()) << parsed.error().message;
  const auto& local = std::get<LocalSgd>(parsed->kind);
  EXPECT_EQ(local.every, 100);
  EXPECT_EQ(local.outer_lr, 0.7);
  EXPECT_EQ(local.outer_momentum, 0.9);
  EXPECT_EQ(local.compression, Compression::kBf16);
  EXPECT_EQ(parsed->bucket_bytes, std::size_t{2} << 20);
  const auto change = parse("switch(start=all_reduce:tree, then=local_sgd(2), at=0.1)");
  ASSERT_TRUE(change.ok()) << change.error().message;
  EXPECT_EQ(std::get<LocalSgd>(std::get<StrategySwitch>(change->kind).then).every, 2);

  EXPECT_THAT(error_of("local_sgd(0)"), HasSubstr("0 is no number of steps"));
  EXPECT_THAT(error_of("local_sgd(often)"), HasSubstr("often is no number of steps"));
  EXPECT_THAT(error_of("local_sgd(every=0)"), HasSubstr("every=0 is no whole number from 1"));
  EXPECT_THAT(error_of("local_sgd(4, every=4)"), HasSubstr("unknown option '4'"));
  EXPECT_THAT(error_of("local_sgd(4, 5)"), HasSubstr("unknown option '5'"));
  EXPECT_THAT(error_of("local_sgd(4, momentum=1)"), HasSubstr("unknown option 'momentum=1'"));
  EXPECT_THAT(error_of("local_sgd(4, outer_lr=0)"), HasSubstr("outer_lr=0 is no positive number"));
  EXPECT_THAT(error_of("local_sgd(4, outer_momentum=1)"), HasSubstr("must be below 1"));
  EXPECT_THAT(error_of("local_sgd:ring(4)"), HasSubstr("is none of 'all_reduce'"));
  EXPECT_THAT(error_of("switch(start=local_sgd(2), then=local_sgd(4))"),
              HasSubstr("goes from one of all_reduce, local_sgd and parameter_server to another"));
}

TEST(Text, HasTheDefaultsOfTheValues) {
  for (const auto& [text, kind] : std::vector<std::pair<std::string, decltype(Strategy::kind)>>{
           {"all_reduce", AllReduce{}},
           {"local_sgd", LocalSgd{}},
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
