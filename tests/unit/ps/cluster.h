#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "gearshift/group/connect.h"
#include "gearshift/ps/client.h"
#include "gearshift/ps/shard.h"

namespace gearshift::ps {

/// Element `i` of a floating-point array, whatever its dtype.
double get(base::DType dtype, base::ConstBytes data, std::size_t i);
void set(base::DType dtype, base::Bytes data, std::size_t i, double value);

/// A parameter of the test model: its elements, its param group, and where it lies.
struct TestParameter {
  std::size_t size = 0;
  std::uint32_t group = 0;
  std::uint32_t bucket = 0;
  std::size_t offset = 0;  ///< elements from the start of the bucket
};

/// Parameters laid out in buckets, as a strategy would do it.
struct Model {
  base::DType dtype = base::DType::kF64;
  std::vector<TestParameter> parameters;
  std::vector<std::size_t> bucket_bytes;

  /// Two param groups; sizes include 0 and 1; a parameter that every cut into shards splits.
  static Model make(base::DType dtype);
  /// Cuts every bucket into `shards` ranges at multiples of 64 bytes.
  Layout cut(int shards) const;
  std::vector<std::size_t> sizes() const;
  std::vector<base::DType> dtypes() const;
};

using Buckets = std::vector<base::Buffer>;
Buckets make_buckets(const Model& model);
std::vector<base::Bytes> views(Buckets& buckets);
double value_of(const Model& model, const Buckets& buckets, std::size_t parameter, std::size_t i);
void set_value(const Model& model, Buckets& buckets, std::size_t parameter, std::size_t i,
               double value);
double initial_value(std::size_t parameter, std::size_t i);

struct ClusterOptions {
  int workers = 1;
  std::vector<int> servers = {0};  ///< rank of each shard; ascending
  int ranks = 0;                   ///< 0: as few as workers and servers need
  base::DType dtype = base::DType::kF64;
  Consistency consistency = {};
  OptimizerSpec optimizer = {.kind = "sgd", .hyper_names = {"lr"}, .param_groups = 2};
  double lr_factor = 1;
  double clip_norm = 0;
  double divergence_factor = 10;
  int at_once = 0;
  std::function<std::optional<std::int64_t>(const CommitInfo&)> on_commit = {};  ///< of shard 0
  std::function<void(const CommitInfo&)> on_commit_elsewhere = {};  ///< of all other shards
  base::Duration timeout = std::chrono::seconds(20);
  bool phantom = false;
  bool halve_gradients = false;
  std::string transport = "inproc";  ///< or "tcp", "shm"
};

/// Workers and shards as tasks of this process.
class Cluster {
 public:
  explicit Cluster(ClusterOptions options);
  ~Cluster();

  group::Group& group(int rank) { return *groups_[static_cast<std::size_t>(rank)]; }
  Client& client(int worker) { return *clients_[static_cast<std::size_t>(worker)]; }
  Shard& shard(int index) { return *shards_[static_cast<std::size_t>(index)]; }
  Buckets& parameters(int worker) { return parameters_[static_cast<std::size_t>(worker)]; }
  Buckets& gradients(int worker) { return gradients_[static_cast<std::size_t>(worker)]; }
  base::Scheduler& scheduler() { return *scheduler_; }
  const Layout& layout() const { return layout_; }

  /// Stages all buckets, the last first, and commits.
  base::Result<Reply> push(int worker, const Commit& commit);
  base::Status stage_all(int worker);
  /// Sets every gradient of a worker to one value.
  void fill_gradients(int worker, double value);

  /// What the shards reported; waits for the first failure.
  base::Error wait_for_failure();
  bool failed() const;

  Model model;

 private:
  void start_shards();
  /// Gradients in memory that the servers read in place.
  Buckets shared_buckets();

  ClusterOptions options_;
  std::unique_ptr<base::Scheduler> scheduler_;
  std::unique_ptr<base::Monitor> monitor_;
  std::vector<base::Error> failures_;
  Layout layout_;
  std::vector<std::unique_ptr<group::Group>> groups_;
  std::vector<std::unique_ptr<transport::SharedRegion>> regions_;  ///< of gradients that are lent
  std::vector<std::unique_ptr<Shard>> shards_;
  std::vector<std::unique_ptr<Client>> clients_;
  std::vector<Buckets> parameters_;
  std::vector<Buckets> gradients_;
};

}  // namespace gearshift::ps
