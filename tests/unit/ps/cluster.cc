#include "cluster.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <mutex>
#include <utility>

#include "gearshift/kernels/half.h"
#include "gearshift/rendezvous/memory/factory.h"
#include "gearshift/transport/shm/factory.h"
#include "gearshift/transport/tcp/factory.h"
#include "support/ranks.h"

namespace gearshift::ps {

using base::DType;

namespace {

template <typename T>
T load(base::ConstBytes data, std::size_t i) {
  T value;
  std::memcpy(&value, data.data() + i * sizeof(T), sizeof(T));
  return value;
}
template <typename T>
void store(base::Bytes data, std::size_t i, T value) {
  std::memcpy(data.data() + i * sizeof(T), &value, sizeof(T));
}

std::size_t round_up(std::size_t n, std::size_t unit) { return (n + unit - 1) / unit * unit; }

/// The parts of the bucket's parameters that lie in elements [first, last).
std::vector<Segment> segments_between(const Model& model, std::uint32_t bucket, std::size_t first,
                                      std::size_t last) {
  std::vector<Segment> segments;
  for (std::uint32_t p = 0; p < model.parameters.size(); ++p) {
    const TestParameter& t = model.parameters[p];
    const std::size_t from = std::max(first, t.offset);
    const std::size_t to = std::min(last, t.offset + t.size);
    if (t.bucket != bucket || from >= to) continue;
    segments.push_back({p, t.group, from - first, from - t.offset, to - from});
  }
  return segments;
}

/// Small stripes and rings, so that large bodies are cut and overtaken even in a small model.
base::Result<std::unique_ptr<transport::Transport>> make_transport(
    const std::string& name, base::Scheduler& scheduler, std::shared_ptr<transport::Router> router,
    const transport::Identity& identity) {
  if (name == "tcp") {
    return transport::tcp::create(scheduler, std::move(router), identity,
                                  {.host = "127.0.0.1", .streams = 3, .stripe_bytes = 256});
  }
  return transport::shm::create(scheduler, std::move(router), identity,
                                {.ring_bytes = 4096, .least_lent_bytes = 64});
}

std::vector<std::unique_ptr<group::Group>> make_groups(const std::string& transport,
                                                       base::Scheduler& scheduler, int size) {
  // To connect may take longer than what is tested, on a busy machine.
  const base::Duration timeout = std::chrono::seconds(60);
  if (transport == "inproc") {
    auto groups = group::make_local_groups(scheduler, size, timeout);
    EXPECT_TRUE(groups.ok());
    return std::move(*groups);
  }
  auto store = rendezvous::memory::make(scheduler);
  std::vector<std::unique_ptr<group::Group>> groups(static_cast<std::size_t>(size));
  testing::run_ranks(scheduler, size, [&](int rank) {
    auto router = std::make_shared<transport::Router>(scheduler);
    auto made = make_transport(transport, scheduler, router,
                               {base::Rank(rank), base::Generation(1), "token"});
    ASSERT_TRUE(made.ok()) << made.error().message;
    auto group = group::connect(scheduler, router, *store, {std::move(*made)},
                                {.rank = base::Rank(rank), .size = size, .timeout = timeout});
    ASSERT_TRUE(group.ok()) << group.error().message;
    groups[static_cast<std::size_t>(rank)] = std::move(*group);
  });
  return groups;
}

}  // namespace

double get(DType dtype, base::ConstBytes data, std::size_t i) {
  if (dtype == DType::kF64) return load<double>(data, i);
  if (dtype == DType::kF32) return load<float>(data, i);
  if (dtype == DType::kF16) return kernels::f16_to_float(load<std::uint16_t>(data, i));
  return kernels::bf16_to_float(load<std::uint16_t>(data, i));
}

void set(DType dtype, base::Bytes data, std::size_t i, double value) {
  if (dtype == DType::kF64) return store(data, i, value);
  if (dtype == DType::kF32) return store(data, i, static_cast<float>(value));
  const auto single = static_cast<float>(value);
  store(data, i,
        dtype == DType::kF16 ? kernels::f16_from_float(single) : kernels::bf16_from_float(single));
}

Model Model::make(DType dtype) {
  Model model;
  model.dtype = dtype;
  const std::size_t size = base::size_of(dtype);
  const std::vector<std::vector<std::pair<std::size_t, std::uint32_t>>> buckets = {
      {{301, 0}, {1, 1}, {0, 0}, {37, 0}}, {{5, 1}}, {{256, 0}, {7, 1}}};
  for (std::uint32_t b = 0; b < buckets.size(); ++b) {
    std::size_t offset = 0;
    for (const auto& [count, group] : buckets[b]) {
      model.parameters.push_back({count, group, b, offset / size});
      offset += round_up(count * size, 64);
    }
    model.bucket_bytes.push_back(offset);
  }
  return model;
}

Layout Model::cut(int shards) const {
  Layout layout;
  const auto count = static_cast<std::size_t>(shards);
  layout.shards.resize(count);
  const std::size_t size = base::size_of(dtype);
  for (std::uint32_t b = 0; b < bucket_bytes.size(); ++b) {
    const std::size_t part = round_up((bucket_bytes[b] + count - 1) / count, 64);
    for (std::size_t k = 0; k < count; ++k) {
      const std::size_t first = std::min(k * part, bucket_bytes[b]);
      const std::size_t last = std::min(first + part, bucket_bytes[b]);
      if (first == last) continue;
      layout.shards[k].push_back(
          {b, dtype, first, last - first, segments_between(*this, b, first / size, last / size)});
    }
  }
  return layout;
}

std::vector<std::size_t> Model::sizes() const {
  std::vector<std::size_t> all;
  for (const TestParameter& p : parameters) all.push_back(p.size);
  return all;
}

std::vector<DType> Model::dtypes() const { return std::vector<DType>(parameters.size(), dtype); }

Buckets make_buckets(const Model& model) {
  Buckets buckets;
  for (const std::size_t bytes : model.bucket_bytes) {
    std::memset(buckets.emplace_back(bytes).data(), 0, bytes);
  }
  return buckets;
}

std::vector<base::Bytes> views(Buckets& buckets) {
  std::vector<base::Bytes> all;
  for (base::Buffer& b : buckets) all.push_back(b.view());
  return all;
}

double value_of(const Model& model, const Buckets& buckets, std::size_t parameter, std::size_t i) {
  const TestParameter& p = model.parameters[parameter];
  return get(model.dtype, buckets[p.bucket].view(), p.offset + i);
}

void set_value(const Model& model, Buckets& buckets, std::size_t parameter, std::size_t i,
               double value) {
  const TestParameter& p = model.parameters[parameter];
  set(model.dtype, buckets[p.bucket].view(), p.offset + i, value);
}

double initial_value(std::size_t parameter, std::size_t i) {
  return std::cos(static_cast<double>(parameter) + 0.37 * static_cast<double>(i));
}

Cluster::Cluster(ClusterOptions options)
    : model(Model::make(options.dtype)),
      options_(std::move(options)),
      scheduler_(base::make_os_scheduler()),
      monitor_(scheduler_->make_monitor()),
      layout_(model.cut(static_cast<int>(options_.servers.size()))) {
  const int ranks = std::max({options_.workers, options_.servers.back() + 1, options_.ranks});
  groups_ = make_groups(options_.transport, *scheduler_, ranks);
  for (const auto& group : groups_) group->context()->timeout = options_.timeout;
  start_shards();
  ClientOptions client{.model = 3,
                       .layout = std::make_shared<const Layout>(layout_),
                       .servers = {},
                       .halve_gradients = options_.halve_gradients};
  for (const int rank : options_.servers) client.servers.emplace_back(rank);
  for (int w = 0; w < options_.workers; ++w) {
    if (options_.transport == "shm") {
      gradients_.push_back(shared_buckets());
      client.gradients = regions_.back().get();
    } else {
      gradients_.push_back(make_buckets(model));
    }
    clients_.push_back(std::make_unique<Client>(group(w), client));
    parameters_.push_back(make_buckets(model));
  }
}

Buckets Cluster::shared_buckets() {
  std::size_t size = 0;
  for (const std::size_t bytes : model.bucket_bytes) size += bytes;
  auto region = transport::SharedRegion::create(size);
  EXPECT_TRUE(region.ok());
  regions_.push_back(std::move(*region));
  const std::shared_ptr<const void> kept_by_the_cluster(regions_.back().get(), [](const void*) {});
  Buckets buckets;
  std::size_t offset = 0;
  for (const std::size_t bytes : model.bucket_bytes) {
    buckets.push_back(base::Buffer::borrow(base::slice(regions_.back()->view(), offset, bytes),
                                           kept_by_the_cluster));
    offset += bytes;
  }
  return buckets;
}

void Cluster::start_shards() {
  Buckets initial = make_buckets(model);
  for (std::size_t p = 0; p < model.parameters.size(); ++p) {
    for (std::size_t i = 0; i < model.parameters[p].size; ++i) {
      set_value(model, initial, p, i, initial_value(p, i));
    }
  }
  std::vector<base::Rank> hosts;
  for (const int rank : options_.servers) hosts.emplace_back(rank);
  for (std::size_t k = 0; k < hosts.size(); ++k) {
    ShardOptions shard{.model = 3,
                       .index = static_cast<int>(k),
                       .workers = options_.workers,
                       .at_once = options_.at_once,
                       .slices = layout_.shards[k],
                       .consistency = options_.consistency,
                       .optimizer = options_.optimizer,
                       .lr_factor = options_.lr_factor,
                       .clip_norm = options_.clip_norm,
                       .divergence_factor = options_.divergence_factor,
                       .on_commit = options_.on_commit,
                       .on_failure = nullptr};
    if (k > 0) {
      shard.on_commit = [this](const CommitInfo& info) -> std::optional<std::int64_t> {
        if (options_.on_commit_elsewhere) options_.on_commit_elsewhere(info);
        return std::nullopt;
      };
    }
    shard.on_failure = [this](const base::Error& error) {
      std::lock_guard<base::Monitor> lock(*monitor_);
      failures_.push_back(error);
      monitor_->notify_all();
    };
    std::vector<base::ConstBytes> values;
    for (const Slice& s : layout_.shards[k]) {
      const base::ConstBytes whole =
          options_.phantom
              ? base::ConstBytes(static_cast<const std::byte*>(nullptr), initial[s.bucket].size())
              : std::as_const(initial[s.bucket]).view();
      values.push_back(base::slice(whole, s.bucket_offset, s.bytes));
    }
    auto rule = make_optimizer(options_.optimizer, layout_.shards[k]);
    ASSERT_TRUE(rule.ok()) << rule.error().message;
    group::Group& host = group(hosts[k].value);
    auto started =
        Shard::start(host, host.subgroup(hosts, 9), std::move(shard), values, std::move(*rule), 0);
    ASSERT_TRUE(started.ok()) << started.error().message;
    shards_.push_back(std::move(*started));
  }
}

Cluster::~Cluster() {
  clients_.clear();
  shards_.clear();
  testing::run_ranks(*scheduler_, static_cast<int>(groups_.size()),
                     [this](int rank) { group(rank).close(group(rank).deadline()); });
}

base::Status Cluster::stage_all(int worker) {
  Buckets& gradient = gradients(worker);
  for (std::size_t b = gradient.size(); b-- > 0;) {
    GEARSHIFT_RETURN_IF_ERROR(
        client(worker).stage(static_cast<std::uint32_t>(b), std::as_const(gradient[b]).view()));
  }
  return {};
}

base::Result<Reply> Cluster::push(int worker, const Commit& commit) {
  GEARSHIFT_RETURN_IF_ERROR(stage_all(worker));
  return client(worker).commit(commit, views(parameters(worker)));
}

void Cluster::fill_gradients(int worker, double value) {
  for (std::size_t p = 0; p < model.parameters.size(); ++p) {
    for (std::size_t i = 0; i < model.parameters[p].size; ++i) {
      set_value(model, gradients(worker), p, i, value);
    }
  }
}

base::Error Cluster::wait_for_failure() {
  const base::TimePoint deadline = scheduler_->after(std::chrono::seconds(20));
  std::lock_guard<base::Monitor> lock(*monitor_);
  while (failures_.empty()) {
    if (!monitor_->wait_until(deadline)) {
      return {base::ErrorCode::kTimeout, "no shard reported a failure"};
    }
  }
  return failures_.front();
}

bool Cluster::failed() const {
  std::lock_guard<base::Monitor> lock(*monitor_);
  return !failures_.empty();
}

}  // namespace gearshift::ps
