#include "errors.h"

namespace gearshift::sim {
namespace {

TEST(ClusterFile, TakesEveryKeyOfAHostAndDefaultsForAll) {
  const auto cluster = parse_cluster(R"(
name = "two kinds"
[defaults]
zone = "rack"
workers = 2
servers = 1
speed = 2
bandwidth = "1 Gbit/s"
latency = "25 us"
local_bandwidth = "6 GB/s"
local_latency = 3e-6
per_message = "5 us"
reduce_bandwidth = 1e9
update_bandwidth = "2 GB/s"
copy_bandwidth = "3 GB/s"
[[hosts]]
name = "plain"
[[hosts]]
name = "node"
count = 2
zone = ""
workers = 0
servers = 4
speed = 0.5
bandwidth = 1000
latency = 0
burst = 65536
queue = "10 ms"
local_bandwidth = 11
local_latency = "1 s"
per_message = "2 s"
reduce_bandwidth = 12
update_bandwidth = 13
copy_bandwidth = 14
[[zones]]
name = "rack"
)",
                                     "x.toml");
  ASSERT_TRUE(cluster.ok()) << cluster.error().message;
  Cluster expected;
  expected.name = "two kinds";
  expected.zones = {{.name = "rack", .parent = ""}};
  expected.hosts.push_back(
      {"plain", "rack", 2, 1, 2, 125e6, 25e-6, 0, 0, {6e9, 3e-6, 5e-6, 1e9, 2e9, 3e9}});
  for (const char* name : {"node-0", "node-1"}) {
    expected.hosts.push_back({name, "", 0, 4, 0.5, 1000, 0, 65536, 0.01, {11, 1, 2, 12, 13, 14}});
  }
  EXPECT_EQ(*cluster, expected);
}

TEST(ClusterFile, TakesEveryKeyOfTheOtherTables) {
  const auto cluster = parse_cluster(R"(
hosts = [{ name = "node", count = 4 }]
[[zones]]
name = "site"
[[zones]]
name = "rack"
count = 2
parent = "site"
bandwidth = "40G"
latency = "5 us"
[variability]
kind = "empirical"
factors = [1, 1.5]
[[stragglers]]
host = "node-0"
[[stragglers]]
host = "node-1"
kind = "periodic"
factor = 3
from_step = 5
to_step = 9
period = 4
length = 2
[[stragglers]]
host = "node-2"
kind = "random"
probability = 0.5
[[failures]]
host = "node-3"
at = "10 s"
recovers_at = "1 min"
[[failures]]
host = "node-3"
at = 60
)",
                                     "clusters/some.toml");
  ASSERT_TRUE(cluster.ok()) << cluster.error().message;
  EXPECT_EQ(cluster->name, "some");
  EXPECT_EQ(cluster->hosts[3], (Host{.name = "node-3", .zone = ""})) << "the defaults of the type";
  EXPECT_EQ(cluster->zones,
            (std::vector<Zone>{
                {"site", "", 0, 0}, {"rack-0", "site", 5e9, 5e-6}, {"rack-1", "site", 5e9, 5e-6}}));
  using Kind = Straggler::Kind;
  EXPECT_EQ(
      cluster->stragglers,
      (std::vector<Straggler>{{.host = "node-0"},
                              {"node-1", Kind::kPeriodic, 3, 5, 9, 4, 2},
                              {.host = "node-2", .kind = Kind::kRandom, .probability = 0.5}}));
  EXPECT_EQ(cluster->failures,
            (std::vector<Failure>{{"node-3", 10, 60}, {"node-3", 60, std::nullopt}}));
  EXPECT_EQ(cluster->variability, (Variability{Variability::Kind::kEmpirical, 0, {1, 1.5}}));
}

TEST(ClusterFile, TakesEachKindOfVariability) {
  using Kind = Variability::Kind;
  const std::string host = "[[hosts]]\nname = 'a'\n[variability]\n";
  EXPECT_EQ(parse_cluster("[[hosts]]\nname = 'a'\n", "x")->variability, std::nullopt);
  EXPECT_EQ(parse_cluster(host + "kind = 'constant'", "x")->variability, Variability{});
  EXPECT_EQ(parse_cluster(host + "kind = 'normal'\nspread = 0.1", "x")->variability,
            (Variability{Kind::kNormal, 0.1, {}}));
  EXPECT_EQ(parse_cluster(host + "kind = 'log-normal'\nspread = 0.1", "x")->variability,
            (Variability{Kind::kLogNormal, 0.1, {}}));
}

/// The error for a host with one more key, on line 3.
std::string host_error(const std::string& line) {
  return cluster_error("[[hosts]]\nname = 'a'\n" + line + "\n[[hosts]]\nname = 'b'\n");
}

TEST(ClusterFile, RefusesWrongKeysOfAHost) {
  EXPECT_EQ(host_error("bandwith = 1"),
            "3: hosts[0].bandwith: unknown key; did you mean \"bandwidth\"?");
  EXPECT_EQ(host_error("colour = 'red'"),
            "3: hosts[0].colour: unknown key; the keys here are \"zone\", \"workers\", "
            "\"servers\", \"speed\", \"bandwidth\", \"latency\", \"burst\", \"queue\", "
            "\"local_bandwidth\", "
            "\"local_latency\", \"per_message\", \"reduce_bandwidth\", \"update_bandwidth\", "
            "\"copy_bandwidth\", \"name\", \"count\"");
  EXPECT_EQ(host_error("count = 0"), "3: hosts[0].count: must be at least 1, this is 0");
  EXPECT_EQ(host_error("count = 1000001"),
            "3: hosts[0].count: must be at most 1000000, this is 1000001");
  EXPECT_EQ(host_error("workers = -1"), "3: hosts[0].workers: must be at least 0, this is -1");
  EXPECT_EQ(host_error("servers = 'two'"),
            "3: hosts[0].servers: must be an integer, this is \"two\"");
  EXPECT_EQ(host_error("speed = -2"), "3: hosts[0].speed: a speed must be positive, this is -2");
  EXPECT_EQ(host_error("speed = '2'"), "3: hosts[0].speed: must be a number, this is \"2\"");
  EXPECT_EQ(host_error("zone = 1979-05-27"),
            "3: hosts[0].zone: must be a text, this is a date or time");
}

TEST(ClusterFile, RefusesNumbersThatOverflow) {
  EXPECT_EQ(host_error("bandwidth = 1e-320"),
            "3: hosts[0].bandwidth: a rate must be at least 1 B/s, this is 1e-320");
  EXPECT_EQ(host_error("bandwidth = '1e30 GB/s'"),
            "3: hosts[0].bandwidth: a rate must be at most 1e+18 B/s, this is \"1e30 GB/s\"");
  EXPECT_EQ(host_error("latency = 1e300"),
            "3: hosts[0].latency: a time must be at most 1e+09 s, this is 1e+300");
  EXPECT_EQ(host_error("speed = 1e-300"),
            "3: hosts[0].speed: a speed must be at least 1e-09, this is 1e-300");
  EXPECT_EQ(host_error("[[stragglers]]\nhost = 'a'\nfactor = 1e308"),
            "5: stragglers[0].factor: a factor must be at most 1e+09, this is 1e+308");
  EXPECT_EQ(host_error("[variability]\nkind = 'empirical'\nfactors = [1e308, 1e308]"),
            "5: variability.factors[0]: a factor must be at most 1e+09, this is 1e+308");
  EXPECT_EQ(host_error("[variability]\nkind = 'log-normal'\nspread = 1000"),
            "5: variability.spread: a spread must be at most 10, this is 1000");
  EXPECT_EQ(host_error("[[failures]]\nhost = 'a'\nat = '1e9 d'"),
            "5: failures[0].at: a time must be at most 1e+09 s, this is \"1e9 d\"");
}

TEST(ClusterFile, RefusesWrongRatesAndTimes) {
  for (const char* key :
       {"bandwidth", "local_bandwidth", "reduce_bandwidth", "update_bandwidth", "copy_bandwidth"}) {
    const std::string where = std::string("3: hosts[0].") + key;
    EXPECT_EQ(host_error(key + std::string(" = -1")),
              where + ": a rate must be positive, this is -1");
    EXPECT_EQ(host_error(key + std::string(" = 0")),
              where + ": a rate must be positive, this is 0");
    EXPECT_EQ(host_error(key + std::string(" = '-1 Gbit/s'")),
              where + ": a rate must be positive, this is \"-1 Gbit/s\"");
    EXPECT_EQ(host_error(key + std::string(" = inf")),
              where + ": a rate must be finite, this is inf");
    EXPECT_EQ(host_error(key + std::string(" = []")),
              where + ": must be a rate, a number or a text with a unit, this is an array");
  }
  for (const char* key : {"latency", "local_latency", "per_message"}) {
    const std::string where = std::string("3: hosts[0].") + key;
    EXPECT_EQ(host_error(key + std::string(" = -1e-3")),
              where + ": a time must not be negative, this is -0.001");
    EXPECT_EQ(host_error(key + std::string(" = nan")),
              where + ": a time must be finite, this is nan");
    EXPECT_EQ(host_error(key + std::string(" = {}")),
              where + ": must be a time, a number or a text with a unit, this is a table");
  }
  EXPECT_EQ(
      host_error("bandwidth = '10 Gbps'"),
      "3: hosts[0].bandwidth: \"10 Gbps\" means bits to some and bytes to others: write bit/s "
      "or B/s");
}

TEST(ClusterFile, CountsEntriesOfTheFileNotOfTheCluster) {
  EXPECT_EQ(cluster_error("[[hosts]]\nname = 'a'\ncount = 3\n\n[[hosts]]\nname = 'b'\nspeed = 0"),
            "7: hosts[1].speed: a speed must be positive, this is 0");
  EXPECT_EQ(cluster_error("[[hosts]]\nname = 'a'\ncount = 2\n[[hosts]]\nname = 'a-1'"),
            "5: hosts[1].name: \"a-1\" is the name of another one already");
}

TEST(ClusterFile, RefusesHostsThatMakeNoCluster) {
  EXPECT_EQ(cluster_error(""), "1: hosts: a cluster needs at least one host");
  EXPECT_EQ(cluster_error("name = 'x'\nhosts = []"), "2: hosts: a cluster needs at least one host");
  EXPECT_EQ(cluster_error("\n[[hosts]]\nname = 'a'\nworkers = 0"),
            "2: hosts: no host has a worker");
  EXPECT_EQ(cluster_error("\n[[hosts]]\nworkers = 1"), "2: hosts[0].name: is missing");
  EXPECT_EQ(cluster_error("[[hosts]]\nname = ''"), "2: hosts[0].name: a name must not be empty");
  EXPECT_EQ(cluster_error("[[hosts]]\nname = ''\ncount = 2\n[[stragglers]]\nhost = '-0'"),
            "2: hosts[0].name: a name must not be empty");
  EXPECT_EQ(cluster_error("[[hosts]]\nname = 'a'\nworkers = 1000001"),
            "1: hosts: 1000001 processes are more than 1000000, the most that a simulation takes");
  EXPECT_EQ(cluster_error("[[hosts]]\nname = 'a'\ncount = 1000000\n[[hosts]]\nname = 'b'"),
            "4: hosts[1].count: more than 1000000 hosts");
  EXPECT_EQ(cluster_error("[hosts]\nname = 'a'"),
            "1: hosts: must be an array of tables, [[hosts]], this is a table");
  EXPECT_EQ(cluster_error("host = 3\n"), "1: host: unknown key; did you mean \"hosts\"?");
}

TEST(ClusterFile, BlamesDefaultsForWhatTheySay) {
  const std::string hosts = "[[hosts]]\nname = 'a'\n";
  EXPECT_EQ(cluster_error("[defaults]\nspeed = 0\n" + hosts),
            "2: defaults.speed: a speed must be positive, this is 0");
  EXPECT_EQ(cluster_error("[defaults]\nzone = 'r'\n" + hosts),
            "2: defaults.zone: there is no zone \"r\"");
  EXPECT_EQ(cluster_error("[defaults]\nbandwidth = -1\n" + hosts),
            "2: defaults.bandwidth: a rate must be positive, this is -1");
  EXPECT_EQ(cluster_error("[defaults]\ncolour = 'red'\n" + hosts).substr(0, 32),
            "2: defaults.colour: unknown key;");
  EXPECT_EQ(cluster_error("defaults = 3\n" + hosts),
            "1: defaults: must be a table, [defaults], this is 3");
}

/// The error for these zones after a host, from line 3 on.
std::string zone_error(const std::string& zones) {
  return cluster_error("[[hosts]]\nname = 'a'\n" + zones);
}

TEST(ClusterFile, RefusesWrongZones) {
  EXPECT_EQ(zone_error("zone = 'rack-9'\n[[zones]]\nname = 'rack'\ncount = 2"),
            "3: hosts[0].zone: there is no zone \"rack-9\"; did you mean \"rack-0\"?");
  EXPECT_EQ(zone_error("[[zones]]\nname = 'r'\nparent = 's'"),
            "5: zones[0].parent: there is no zone \"s\"");
  EXPECT_EQ(zone_error("[[zones]]\nname = 'r'\nparent = 'r'"),
            "5: zones[0].parent: the zones form a cycle: \"r\" below \"r\"");
  EXPECT_EQ(zone_error("[[zones]]\nname = 'r'\nparent = 's'\n[[zones]]\nname = 's'\nparent = 'r'"),
            "5: zones[0].parent: the zones form a cycle: \"r\" below \"s\" below \"r\"");
  EXPECT_EQ(zone_error("[[zones]]\nname = 'r'\n[[zones]]\nname = 'r'"),
            "6: zones[1].name: \"r\" is the name of another one already");
  EXPECT_EQ(zone_error("[[zones]]\nparent = 'r'"), "3: zones[0].name: is missing");
  EXPECT_EQ(zone_error("[[zones]]\nname = 'r'\nbandwidth = 0"),
            "5: zones[0].bandwidth: a rate must be positive, this is 0");
  EXPECT_EQ(zone_error("[[zones]]\nname = 'r'\nlatency = -1"),
            "5: zones[0].latency: a time must not be negative, this is -1");
  EXPECT_EQ(zone_error("[[zones]]\nname = 'r'\nup = 's'").substr(0, 28),
            "5: zones[0].up: unknown key;");
}

TEST(ClusterFile, RefusesWrongVariability) {
  EXPECT_EQ(zone_error("[variability]\nspread = 1"), "3: variability.kind: is missing");
  EXPECT_EQ(zone_error("[variability]\nkind = 'gauss'"),
            "4: variability.kind: must be one of \"constant\", \"normal\", \"log-normal\", "
            "\"empirical\", this is \"gauss\"");
  EXPECT_EQ(zone_error("[variability]\nkind = 'normal'"), "3: variability.spread: is missing");
  EXPECT_EQ(zone_error("[variability]\nkind = 'normal'\nspread = -1"),
            "5: variability.spread: a spread must not be negative, this is -1");
  EXPECT_EQ(zone_error("[variability]\nkind = 'constant'\nspread = 1"),
            "5: variability.spread: makes sense only with kind = \"normal\" or \"log-normal\"");
  EXPECT_EQ(zone_error("[variability]\nkind = 'normal'\nspread = 1\nfactors = [1]"),
            "6: variability.factors: makes sense only with kind = \"empirical\"");
  EXPECT_EQ(zone_error("[variability]\nkind = 'empirical'"), "3: variability.factors: is missing");
  EXPECT_EQ(zone_error("[variability]\nkind = 'empirical'\nfactors = []"),
            "5: variability.factors: \"empirical\" needs at least one factor");
  EXPECT_EQ(zone_error("[variability]\nkind = 'empirical'\nfactors = [1, 0]"),
            "5: variability.factors[1]: a factor must be positive, this is 0");
  EXPECT_EQ(zone_error("[variability]\nkind = 'empirical'\nfactors = [1, 'a']"),
            "5: variability.factors[1]: must be a number, this is \"a\"");
}

/// The error for a straggler with more keys, from line 5 on.
std::string straggler_error(const std::string& lines) {
  return zone_error("[[stragglers]]\nhost = 'a'\n" + lines);
}

TEST(ClusterFile, RefusesWrongStragglers) {
  EXPECT_EQ(zone_error("[[stragglers]]\nfactor = 2"), "3: stragglers[0].host: is missing");
  EXPECT_EQ(zone_error("count = 2\n[[stragglers]]\nhost = 'a'"),
            "5: stragglers[0].host: there is no host \"a\"; did you mean \"a-0\"?");
  EXPECT_EQ(straggler_error("kind = 'slow'"),
            "5: stragglers[0].kind: must be one of \"fixed\", \"periodic\", \"random\", this is "
            "\"slow\"");
  EXPECT_EQ(straggler_error("factor = 0"),
            "5: stragglers[0].factor: a factor must be positive, this is 0");
  EXPECT_EQ(straggler_error("from_step = 0"),
            "5: stragglers[0].from_step: must be at least 1, this is 0");
  EXPECT_EQ(straggler_error("from_step = 5\nto_step = 4"),
            "6: stragglers[0].to_step: 4 is before from_step, 5");
  EXPECT_EQ(straggler_error("period = 2"),
            "5: stragglers[0].period: makes sense only with kind = \"periodic\"");
  EXPECT_EQ(straggler_error("length = 2"),
            "5: stragglers[0].length: makes sense only with kind = \"periodic\"");
  EXPECT_EQ(straggler_error("probability = 1"),
            "5: stragglers[0].probability: makes sense only with kind = \"random\"");
  EXPECT_EQ(straggler_error("kind = 'periodic'\nperiod = 0"),
            "6: stragglers[0].period: must be at least 1, this is 0");
  EXPECT_EQ(straggler_error("kind = 'periodic'\nlength = 11"),
            "6: stragglers[0].length: a length must be between 1 and period, 10; this is 11");
  EXPECT_EQ(straggler_error("kind = 'random'\nprobability = 1.5"),
            "6: stragglers[0].probability: a probability must be between 0 and 1, this is 1.5");
  EXPECT_EQ(straggler_error("hosts = 'a'"),
            "5: stragglers[0].hosts: unknown key; did you mean \"host\"?");
}

TEST(ClusterFile, RefusesWrongFailures) {
  const std::string failure = "[[failures]]\nhost = 'a'\n";
  EXPECT_EQ(zone_error("[[failures]]\nat = 1"), "3: failures[0].host: is missing");
  EXPECT_EQ(zone_error("[[failures]]\nhost = 'z'\nat = 1"),
            "4: failures[0].host: there is no host \"z\"");
  EXPECT_EQ(zone_error(failure), "3: failures[0].at: is missing");
  EXPECT_EQ(zone_error(failure + "at = '-1 s'"),
            "5: failures[0].at: a time must not be negative, this is \"-1 s\"");
  EXPECT_EQ(zone_error(failure + "at = 3\nrecovers_at = 2"),
            "6: failures[0].recovers_at: the host recovers at 2 s, not after it fails, at 3 s");
  EXPECT_EQ(zone_error(failure + "at = 3\n" + failure + "at = 4"),
            "8: failures[1].at: the host \"a\" is down already, since 3 s");
  EXPECT_EQ(zone_error(failure + "at = 3\nrecover_at = 4"),
            "6: failures[0].recover_at: unknown key; did you mean \"recovers_at\"?");
}

TEST(ClusterFile, SaysWhereTheSyntaxIsWrong) {
  EXPECT_TRUE(cluster_error("[[hosts]]\nname = a").starts_with("2:8: "))
      << cluster_error("[[hosts]]\nname = a");
  EXPECT_TRUE(cluster_error("[[hosts]]\nname = 'a'\nname = 'b'").starts_with("3:"))
      << cluster_error("[[hosts]]\nname = 'a'\nname = 'b'");
  EXPECT_TRUE(cluster_error("a = '\xff'").starts_with("1:")) << cluster_error("a = '\xff'");
}

TEST(ClusterFile, MustBeReadable) {
  const auto missing = load_cluster("/nonexistent/c.toml");
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.error().code, base::ErrorCode::kIo);
  EXPECT_EQ(missing.error().message, "cannot read /nonexistent/c.toml: No such file or directory");
}

}  // namespace
}  // namespace gearshift::sim
