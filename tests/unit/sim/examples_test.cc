#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <set>

#include "gearshift/sim/cluster.h"

namespace gearshift::sim {
namespace {

namespace fs = std::filesystem;

const fs::path kExamples = GEARSHIFT_EXAMPLE_CLUSTERS;

Cluster load(const std::string& name) {
  auto cluster = load_cluster((kExamples / name).string());
  if (!cluster) {
    ADD_FAILURE() << cluster.error().message;
    return {};
  }
  return *cluster;
}

TEST(ExampleClusters, AllLoadAndHaveTheHostsTheyPromise) {
  const std::map<std::string, std::pair<std::size_t, int>> promised{
      {"laptop.toml", {1, 4}},          {"four-hosts-1g.toml", {4, 4}},
      {"cloud-16-10g.toml", {16, 16}},  {"two-sites.toml", {8, 8}},
      {"stragglers-64.toml", {64, 64}}, {"volunteers-1000.toml", {1000, 1000}}};
  std::set<std::string> names;
  for (const auto& file : fs::directory_iterator(kExamples)) {
    const std::string name = file.path().filename().string();
    ASSERT_TRUE(promised.contains(name)) << name;
    const Cluster cluster = load(name);
    EXPECT_EQ(cluster.hosts.size(), promised.at(name).first) << name;
    EXPECT_EQ(cluster.workers(), promised.at(name).second) << name;
    EXPECT_TRUE(names.insert(cluster.name).second) << cluster.name;
  }
  EXPECT_EQ(names.size(), promised.size());
}

TEST(ExampleClusters, MeanWhatTheySay) {
  EXPECT_EQ(load("four-hosts-1g.toml").hosts[3].name, "node-3");
  EXPECT_DOUBLE_EQ(load("four-hosts-1g.toml").hosts[0].bandwidth, 119.6e6);

  const Cluster sites = load("two-sites.toml");
  ASSERT_EQ(sites.zones.size(), 2);
  EXPECT_DOUBLE_EQ(sites.zones[0].latency + sites.zones[1].latency, 10e-3);

  EXPECT_EQ(load("stragglers-64.toml").stragglers.size(), 2);

  const Cluster volunteers = load("volunteers-1000.toml");
  EXPECT_EQ(volunteers.variability->kind, Variability::Kind::kLogNormal);
  ASSERT_EQ(volunteers.failures.size(), 2);
  EXPECT_EQ(volunteers.failures[1].at, 300);
  EXPECT_FALSE(volunteers.failures[1].recovers_at.has_value());
}

}  // namespace
}  // namespace gearshift::sim
