#include "gearshift/collectives/survey.h"

#include <gtest/gtest.h>

#include "gearshift/collectives/collectives.h"
#include "reference.h"
#include "world.h"

namespace gearshift::collectives::testing {
namespace {

/// A link that leads to another host, whatever the one below it says.
class FarLink final : public transport::Connection {
 public:
  explicit FarLink(std::shared_ptr<transport::Connection> below) : below_(std::move(below)) {}
  transport::Request send(transport::Tag tag, base::ConstBytes head,
                          base::ConstBytes body) override {
    return below_->send(tag, head, body);
  }
  transport::Request recv(transport::Tag tag, base::Bytes into) override {
    return below_->recv(tag, into);
  }
  base::Rank peer() const override { return below_->peer(); }
  transport::Capabilities capabilities() const override {
    return {.transport = "far", .same_host = false, .shared_regions = false};
  }
  transport::Traffic traffic() const override { return below_->traffic(); }
  void abort(base::Error reason) override { below_->abort(std::move(reason)); }
  void close(base::TimePoint deadline) override { below_->close(deadline); }

 private:
  const std::shared_ptr<transport::Connection> below_;
};

/// The same ranks, with far links where hosts differ.
group::Group spread(const group::Group& group, const std::vector<int>& host_of) {
  auto links = group.links();
  const auto host = [&](std::size_t r) { return host_of[r]; };
  for (std::size_t r = 0; r < links.size(); ++r) {
    if (links[r] && host(r) != host(static_cast<std::size_t>(group.rank().value))) {
      links[r] = std::make_shared<FarLink>(links[r]);
    }
  }
  return {group.context(), group.rank(), std::move(links), 7};
}

using Topologies = std::vector<std::shared_ptr<const group::Topology>>;

Topologies survey_all(World& world, const std::vector<int>& host_of,
                      const std::function<SurveyOptions(int)>& options) {
  Topologies found(host_of.size());
  world.run([&](group::Group& plain) {
    group::Group group = spread(plain, host_of);
    const int rank = group.rank().value;
    const auto topology = survey(group, options(rank));
    ASSERT_TRUE(topology.ok()) << topology.error().to_string();
    EXPECT_EQ(group.topology(), *topology);
    EXPECT_EQ(group.with_channel(9).topology(), *topology);
    found[static_cast<std::size_t>(rank)] = *topology;
  });
  return found;
}

void expect_equal_everywhere(const Topologies& found, const std::vector<int>& host_of) {
  const group::Topology expected(host_of);
  for (const auto& t : found) {
    ASSERT_NE(t, nullptr);
    for (int r = 0; r < t->size(); ++r) EXPECT_EQ(t->host_of(r), expected.host_of(r));
    EXPECT_EQ(t->speeds(), found[0]->speeds());
    EXPECT_EQ(t->order(), found[0]->order());
  }
}

constexpr SurveyOptions kAlways{.measure = Measure::kAlways,
                                .budget = std::chrono::milliseconds(20)};

class Survey : public OverWires {};

TEST_P(Survey, FindsTheHostsAndMeasuresTheSameOnAllRanks) {
  World world = make_world();
  for (const auto& host_of : placements(size())) {
    SCOPED_TRACE(::testing::PrintToString(host_of));
    const auto found = survey_all(world, host_of, [](int) { return kAlways; });
    expect_equal_everywhere(found, host_of);
    if (size() == 1) continue;
    const group::LinkSpeeds& speeds = found[0]->speeds();
    EXPECT_TRUE(speeds.measured);
    EXPECT_GT(speeds.reduce_seconds_per_byte, 0);
    for (int a = 0; a < found[0]->hosts(); ++a) {
      for (int b = 0; b < a; ++b) {
        EXPECT_GT(found[0]->between(a, b).latency, 0);
        EXPECT_GT(found[0]->between(a, b).seconds_per_byte, 0);
        EXPECT_EQ(found[0]->between(a, b), found[0]->between(b, a));
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Wires, Survey, ::testing::ValuesIn(settings({1, 2, 5, 8})), name_of);

TEST(SurveyOptions, OneHostIsNotMeasuredUnlessSomebodyInsists) {
  World world(inproc_wire(), 3);
  const std::vector<int> together = {0, 0, 0};
  EXPECT_FALSE(
      survey_all(world, together, [](int) { return SurveyOptions{}; })[0]->speeds().measured);
  const auto found = survey_all(world, together, [](int rank) {
    return rank == 1 ? kAlways : SurveyOptions{.measure = Measure::kNever};
  });
  expect_equal_everywhere(found, together);
  EXPECT_TRUE(found[2]->speeds().measured);
}

TEST(SurveyOptions, SeveralHostsAreMeasuredUnlessSomebodyObjects) {
  World world(inproc_wire(), 3);
  const std::vector<int> apart = {0, 1, 0};
  EXPECT_TRUE(survey_all(world, apart, [](int) { return SurveyOptions{}; })[0]->speeds().measured);
  const auto found = survey_all(world, apart, [](int rank) {
    return SurveyOptions{.measure = rank == 2 ? Measure::kNever : Measure::kIfSeveralHosts};
  });
  expect_equal_everywhere(found, apart);
  EXPECT_EQ(found[0]->speeds(), group::LinkSpeeds{});
}

TEST(SurveyOptions, KnownSpeedsCountOnlyIfAllRanksKnowThem) {
  World world(inproc_wire(), 3);
  const std::vector<int> apart = {0, 1, 1};
  group::LinkSpeeds known;
  known.remote = {.latency = 1, .seconds_per_byte = 2};
  known.measured = true;
  const auto all = survey_all(world, apart, [&](int) { return SurveyOptions{.known = known}; });
  EXPECT_EQ(all[0]->speeds(), known);
  expect_equal_everywhere(all, apart);
  const auto some = survey_all(world, apart, [&](int rank) {
    return rank == 1 ? SurveyOptions{} : SurveyOptions{.known = known};
  });
  EXPECT_NE(some[0]->speeds(), known);
  expect_equal_everywhere(some, apart);
  known.between.resize(9);  // of three hosts: these are two
  const auto wrong = survey_all(world, apart, [&](int) { return SurveyOptions{.known = known}; });
  EXPECT_EQ(wrong[0]->speeds().between.size(), 4u);
}

TEST(SurveyOptions, CollectivesFindTheHostsBySomeMeansOfTheirOwn) {
  World world(inproc_wire(), 5);
  const std::vector<int> apart = {0, 1, 0, 2, 1};
  world.run([&](group::Group& plain) {
    group::Group group = spread(plain, apart);
    std::vector<float> data(1000, 1);
    EXPECT_TRUE(all_reduce(group, std::as_writable_bytes(std::span(data)), base::DType::kF32,
                           base::ReduceOp::kSum)
                    .ok());
    EXPECT_EQ(data[999], 5);
    ASSERT_NE(group.topology(), nullptr);
    EXPECT_EQ(group.topology()->hosts(), 3);
    EXPECT_FALSE(group.topology()->speeds().measured);
  });
}

}  // namespace
}  // namespace gearshift::collectives::testing
