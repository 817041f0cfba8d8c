#include <map>

#include "gearshift/sim/cluster.h"
#include "sim/check.h"
#include "sim/toml_reader.h"
#include "sim/variability_file.h"

namespace gearshift::sim {
namespace {

constexpr std::int64_t kMaxCount = 1'000'000;

constexpr std::array<std::pair<std::string_view, Straggler::Kind>, 3> kStragglerKinds{
    {{"fixed", Straggler::Kind::kFixed},
     {"periodic", Straggler::Kind::kPeriodic},
     {"random", Straggler::Kind::kRandom}}};

class ClusterReader {
 public:
  ClusterReader(const std::string& text, const std::string& name)
      : file_(name, text,
              {"name", "defaults", "hosts", "zones", "variability", "stragglers", "failures"}),
        root_(file_, file_.root(), "") {}

  base::Result<Cluster> read() {
    if (file_.error()) return *file_.error();
    if (!root_.text("name", cluster_.name)) cluster_.name = stem_of(file_.name());
    read_hosts();
    read_zones();
    variability_ = root_.table("variability");
    if (variability_) cluster_.variability = read_variability(*variability_);
    read_stragglers();
    read_failures();
    root_.no_other_keys();
    if (!file_.error()) {
      if (const auto problem = find_problem(cluster_)) report(*problem);
    }
    if (file_.error()) return *file_.error();
    return std::move(cluster_);
  }

 private:
  /// The tables that the entries of a section of the cluster come from, several from one `count`.
  struct Origins {
    std::vector<TomlTable> tables;
    std::vector<std::size_t> table_of;
  };

  void read_host_keys(TomlTable& table, Host& host) {
    table.text("zone", host.zone);
    table.integer("workers", host.workers, 0);
    table.integer("servers", host.servers, 0);
    table.number("speed", host.speed);
    table.rate("bandwidth", host.bandwidth);
    table.duration("latency", host.latency);
    table.integer("burst", host.burst, 0);
    table.duration("queue", host.queue);
    table.rate("local_bandwidth", host.model.local_bandwidth);
    table.duration("local_latency", host.model.local_latency);
    table.duration("per_message", host.model.per_message);
    table.rate("reduce_bandwidth", host.model.reduce_bandwidth);
    table.rate("update_bandwidth", host.model.update_bandwidth);
    table.rate("copy_bandwidth", host.model.copy_bandwidth);
  }

  void read_hosts() {
    Host common;
    defaults_ = root_.table("defaults");
    if (defaults_) {
      read_host_keys(*defaults_, common);
      defaults_->no_other_keys();
    }
    for (TomlTable& table : root_.tables("hosts")) {
      Host host = common;
      read_host_keys(table, host);
      add("hosts", table, std::move(host), cluster_.hosts);
    }
  }

  void read_zones() {
    for (TomlTable& table : root_.tables("zones")) {
      Zone zone;
      table.text("parent", zone.parent);
      table.rate("bandwidth", zone.bandwidth);
      table.duration("latency", zone.latency);
      add("zones", table, std::move(zone), cluster_.zones);
    }
  }

  void read_stragglers() {
    using Kind = Straggler::Kind;
    for (TomlTable& table : root_.tables("stragglers")) {
      Straggler straggler;
      table.text("host", straggler.host);
      table.require("host");
      table.choice("kind", straggler.kind, kStragglerKinds);
      table.number("factor", straggler.factor);
      table.integer("from_step", straggler.from_step, 1);
      table.integer("to_step", straggler.to_step, 0);
      table.integer("period", straggler.period, 1);
      table.integer("length", straggler.length, 1);
      table.number("probability", straggler.probability);
      const std::string periodic = "with kind = \"periodic\"";
      table.only(straggler.kind == Kind::kPeriodic, "period", periodic);
      table.only(straggler.kind == Kind::kPeriodic, "length", periodic);
      table.only(straggler.kind == Kind::kRandom, "probability", "with kind = \"random\"");
      finish("stragglers", table, std::move(straggler), cluster_.stragglers);
    }
  }

  void read_failures() {
    for (TomlTable& table : root_.tables("failures")) {
      Failure failure;
      table.text("host", failure.host);
      table.require("host");
      table.duration("at", failure.at);
      table.require("at");
      double recovers_at = 0;
      if (table.duration("recovers_at", recovers_at)) failure.recovers_at = recovers_at;
      finish("failures", table, std::move(failure), cluster_.failures);
    }
  }

  template <typename Entry>
  void finish(const std::string& section, TomlTable& table, Entry entry, std::vector<Entry>& all) {
    table.no_other_keys();
    Origins& origins = origins_[section];
    origins.table_of.push_back(origins.tables.size());
    origins.tables.push_back(table);
    all.push_back(std::move(entry));
  }

  /// Hosts and zones have a name, and a count: "node-0", "node-1", … with a count above 1.
  template <typename Named>
  void add(const std::string& section, TomlTable& table, Named entry, std::vector<Named>& all) {
    std::string name;
    std::size_t count = 1;
    table.text("name", name);
    table.require("name");
    if (name.empty()) table.fail("name", "a name must not be empty");  // also if it gets a number
    table.integer("count", count, 1, kMaxCount);
    table.no_other_keys();
    Origins& origins = origins_[section];
    if (all.size() + count > kMaxCount) {
      table.fail("count", "more than " + std::to_string(kMaxCount) + " " + section);
      return;
    }
    for (std::size_t i = 0; i < count; ++i) {
      entry.name = count == 1 ? name : name + "-" + std::to_string(i);
      origins.table_of.push_back(origins.tables.size());
      all.push_back(entry);
    }
    origins.tables.push_back(table);
  }

  /// Says where in the file the cause of a problem stands.
  void report(const Problem& problem) {
    if (!problem.index) {
      const bool variability = problem.section == "variability";
      (variability ? *variability_ : root_)
          .fail(variability ? problem.key : problem.section, problem.what);
      return;
    }
    const Origins& origins = origins_.at(problem.section);
    TomlTable table = origins.tables[origins.table_of[*problem.index]];
    if (problem.section == "hosts" && defaults_ && !table.has(problem.key) &&
        defaults_->has(problem.key)) {
      table = *defaults_;
    }
    table.fail(problem.key, problem.what);
  }

  TomlFile file_;
  TomlTable root_;
  std::optional<TomlTable> defaults_;
  std::optional<TomlTable> variability_;
  std::map<std::string, Origins> origins_;
  Cluster cluster_;
};

}  // namespace

base::Result<Cluster> parse_cluster(const std::string& text, const std::string& name) {
  return ClusterReader(text, name).read();
}

base::Result<Cluster> load_cluster(const std::string& path) {
  GEARSHIFT_ASSIGN_OR_RETURN(const std::string text, read_file(path));
  return parse_cluster(text, path);
}

}  // namespace gearshift::sim
