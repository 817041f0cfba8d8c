#include "sim/simgrid/network.h"

#include <algorithm>

#include "gearshift/transport/loopback.h"

namespace gearshift::sim {

using base::Rank;
using base::TimePoint;

namespace {

/// One end of a link that may not exist yet.
class SimConnection final : public transport::Connection {
 public:
  SimConnection(Network& network, int own, int peer) : network_(network), own_(own), peer_(peer) {}
  ~SimConnection() override {
    if (link_) link_->abort(side(), {base::ErrorCode::kClosed, "the connection was destroyed"});
  }

  using Connection::send;
  transport::Request send(transport::Tag tag, base::ConstBytes head,
                          base::ConstBytes body) override {
    return link().send(side(), tag, head, body);
  }
  transport::Request recv(transport::Tag tag, base::Bytes into) override {
    return link().recv(side(), tag, into);
  }
  Rank peer() const override { return Rank(peer_); }
  transport::Capabilities capabilities() const override {
    return network_.capabilities(own_, peer_);
  }
  transport::Traffic traffic() const override {
    return link_ ? link_->traffic(side()) : transport::Traffic();
  }
  void abort(base::Error reason) override { link().abort(side(), reason); }
  void close(TimePoint deadline) override { link().close(side(), deadline); }

 private:
  int side() const { return own_ < peer_ ? 0 : 1; }
  Link& link() {
    if (!link_) link_ = network_.link(own_, peer_);
    return *link_;
  }

  Network& network_;
  const int own_;
  const int peer_;
  std::shared_ptr<Link> link_;
};

}  // namespace

Network::Network(SimScheduler& scheduler, const Cluster& cluster, base::Duration timeout,
                 Sharing sharing)
    : scheduler_(scheduler),
      cluster_(cluster),
      timeout_(timeout),
      platform_(cluster),
      sharing_(sharing),
      silent_(cluster.hosts.size()) {
  for (int d = 0; sharing == Sharing::kPerLink && d < platform_.directions(); ++d) {
    ports_.push_back(std::make_unique<Port>(scheduler_, platform_.bandwidth_of(d)));
  }
  const int world = cluster.workers() + cluster.servers();
  for (int rank = 0; rank < world; ++rank) {
    ranks_.push_back({cluster.host_of(rank), std::make_shared<transport::Router>(scheduler)});
  }
  topology_ = make_topology();
}

Network::~Network() = default;

std::shared_ptr<const group::Topology> Network::make_topology() const {
  std::vector<int> labels, order;
  for (const RankState& rank : ranks_) {
    labels.push_back(rank.host);
    if (std::find(order.begin(), order.end(), rank.host) == order.end()) order.push_back(rank.host);
  }
  return std::make_shared<const group::Topology>(labels, platform_.speeds(order));
}

std::unique_ptr<group::Group> Network::join(int rank) {
  auto context = std::make_shared<group::Context>();
  context->scheduler = &scheduler_;
  context->router = ranks_[static_cast<std::size_t>(rank)].router;
  context->loopback = transport::make_loopback(context->router, Rank(rank));
  context->timeout = timeout_;
  context->progress = std::make_unique<group::Progress>(scheduler_);
  std::vector<std::shared_ptr<transport::Connection>> links(ranks_.size());
  for (int peer = 0; peer < ranks(); ++peer) {
    if (peer == rank) continue;
    links[static_cast<std::size_t>(peer)] = std::make_shared<SimConnection>(*this, rank, peer);
  }
  auto group = std::make_unique<group::Group>(std::move(context), Rank(rank), std::move(links),
                                              std::uint16_t{0});
  group->set_topology(topology_);
  return group;
}

simgrid::s4u::Host* Network::host(int rank) const { return platform_.host(host_of(rank)); }

const std::shared_ptr<transport::Router>& Network::router(int rank) const {
  return ranks_[static_cast<std::size_t>(rank)].router;
}

std::shared_ptr<Link> Network::link(int from, int to) {
  const auto low = static_cast<std::uint64_t>(std::min(from, to));
  const auto high = static_cast<std::uint64_t>(std::max(from, to));
  std::shared_ptr<Link>& link = links_[(low << 32U) | high];
  if (!link) {
    link = std::make_shared<Link>(*this, static_cast<int>(low), static_cast<int>(high));
    if (aborted_) link->abort(0, *aborted_);
  }
  return link;
}

NetworkMilestone Network::milestone() const {
  const double now = base::to_seconds(scheduler_.now().since_origin);
  return {messages_, platform_.carried(), platform_.refills(now)};
}

transport::Capabilities Network::capabilities(int from, int to) const {
  const bool same_host =
      ranks_[static_cast<std::size_t>(from)].host == ranks_[static_cast<std::size_t>(to)].host;
  return {.transport = "sim", .same_host = same_host, .shared_regions = false};
}

TimePoint Network::occupy_sender(int from, int to) {
  ++messages_;
  RankState& rank = ranks_[static_cast<std::size_t>(from)];
  const TimePoint now = scheduler_.now();
  if (rank.host == ranks_[static_cast<std::size_t>(to)].host) return now;
  const double cost = cluster_.hosts[static_cast<std::size_t>(rank.host)].model.per_message;
  rank.sender_free = std::max(rank.sender_free, now) + base::from_seconds(cost);
  return rank.sender_free;
}

TimePoint Network::arrival(int from, int to) {
  const int from_host = ranks_[static_cast<std::size_t>(from)].host;
  RankState& rank = ranks_[static_cast<std::size_t>(to)];
  const TimePoint now = scheduler_.now();
  const TimePoint there = now + base::from_seconds(platform_.latency(from_host, rank.host));
  if (from_host == rank.host) return there;
  const double cost = cluster_.hosts[static_cast<std::size_t>(rank.host)].model.per_message;
  return rank.reception.take_in(there, base::from_seconds(cost), now);
}

base::Duration Network::queueing(int from, int to) const {
  const double now = base::to_seconds(scheduler_.now().since_origin);
  return base::from_seconds(platform_.queues().wait(host_of(from), host_of(to), now));
}

std::uint64_t Network::begin_transfer(int from, int to, std::uint64_t bytes, bool bulk) {
  const int a = host_of(from);
  const int b = host_of(to);
  platform_.count(a, b, bytes);
  const double now = base::to_seconds(scheduler_.now().since_origin);
  return std::max<std::uint64_t>(bytes - platform_.begin_transfer(a, b, bytes, bulk, now), 1);
}

void Network::end_transfer(int from, int to, bool bulk, TimePoint begin) {
  const double now = base::to_seconds(scheduler_.now().since_origin);
  platform_.end_transfer(host_of(from), host_of(to), bulk, now);
  if (on_transfer_) on_transfer_(from, to, begin);
}

void Network::transfer(int from, int to, std::uint64_t bytes, bool bulk) {
  const TimePoint begin = scheduler_.now();
  scheduler_.transfer(host(from), host(to), begin_transfer(from, to, bytes, bulk));
  end_transfer(from, to, bulk, begin);
}

std::vector<Port*> Network::route(int from, int to) {
  if (sharing_ == Sharing::kNone) {
    const double bandwidth = platform_.bandwidth(host_of(from), host_of(to));
    return {ports_.emplace_back(std::make_unique<Port>(scheduler_, bandwidth)).get()};
  }
  std::vector<Port*> ports;
  for (const int direction : platform_.way(host_of(from), host_of(to))) {
    ports.push_back(ports_[static_cast<std::size_t>(direction)].get());
  }
  return ports;
}

std::optional<base::Duration> Network::local_transfer(int from, int to, std::uint64_t bytes) const {
  const int host = host_of(from);
  if (host != host_of(to)) return std::nullopt;
  const double rate = platform_.bandwidth(host, host);
  return std::max(base::from_seconds(static_cast<double>(bytes) / rate), base::Duration(1));
}

void Network::carry(Link& link, int lane) {
  if (sharing_ != Sharing::kMaxMin) return link.launch(lane);
  if (!idle_.empty()) {
    Carrier& carrier = *idle_.back();
    idle_.pop_back();
    carrier.link = &link;
    carrier.lane = lane;
    scheduler_.wake(*carrier.actor);
    return;
  }
  carriers_.push_back(std::make_unique<Carrier>());
  Carrier& carrier = *carriers_.back();
  carrier.link = &link;
  carrier.lane = lane;
  carrier.task = scheduler_.spawn_on(platform_.host(0), "wire", [this, &carrier] { run(carrier); });
}

void Network::run(Carrier& carrier) {
  carrier.actor = &scheduler_.current();
  while (!carrier.stopping) {
    if (Link* link = std::exchange(carrier.link, nullptr)) {
      link->carry(carrier.lane);
      idle_.push_back(&carrier);
    }
    scheduler_.park(TimePoint::never());
  }
}

void Network::abort(const base::Error& error) {
  aborted_ = error;
  std::vector<std::shared_ptr<Link>> links;
  for (const auto& [ranks, link] : links_) links.push_back(link);
  for (const auto& link : links) link->abort(0, error);
}

void Network::restart() {
  aborted_.reset();
  for (auto& [ranks, link] : links_) former_.push_back(std::move(link));
  links_.clear();
  for (RankState& rank : ranks_) rank.router = std::make_shared<transport::Router>(scheduler_);
}

bool Network::loses(int from, int to) const {
  const auto host = [this](int rank) {
    return static_cast<std::size_t>(ranks_[static_cast<std::size_t>(rank)].host);
  };
  return silent_[host(from)] || silent_[host(to)];
}

void Network::stop() {
  for (const auto& carrier : carriers_) {
    carrier->stopping = true;
    if (carrier->actor == nullptr) continue;
    scheduler_.wake(*carrier->actor);
  }
  for (const auto& carrier : carriers_) carrier->task->join();
}

}  // namespace gearshift::sim
