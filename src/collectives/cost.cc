#include "gearshift/collectives/cost.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdio>
#include <limits>

#include "collectives/all_reduce/tree.h"
#include "collectives/in_flight.h"
#include "collectives/segments.h"

namespace gearshift::collectives {
namespace {

/// The first of those that are about as fast as the fastest wins. A ring sends to one neighbour all
/// the time; an algorithm that changes partners has ranks wait, at each change, for those that are
/// not in step. So the steadier come first.
constexpr std::array kCandidates = {Algorithm::kHierarchical, Algorithm::kRing,
                                    Algorithm::kRabenseifner, Algorithm::kRecursiveDoubling,
                                    Algorithm::kTree};
/// About as fast: links are measured, and steps predicted, no more exactly.
constexpr double kAsFast = 1.05;

/// Links are measured on machines that do other work, too: whether one is slower than another by
/// less than this is not known.
constexpr double kAlike = 1.5;

/// Whether it is an algorithm of its own there: with one rank per host and no sites that matter, or
/// one host, the hierarchical one is another one in disguise.
bool is_candidate(Algorithm algorithm, std::size_t bytes, const Network& n) {
  if (algorithm != Algorithm::kHierarchical) return true;
  return n.hosts > 1 && (n.largest_host > 1 || way_between(bytes, n) == Between::kSites);
}

/// A message, and combining it.
double combined(double bytes, const group::LinkSpeed& link, double gamma) {
  return link.seconds(bytes) + bytes * gamma;
}

/// Links of a ring that are alike, and how many of them there are.
struct Hops {
  group::LinkSpeed link{};
  int count = 0;
};

/// Half of a ring's round: over when the slowest link has passed on all parts but one, or when a
/// part has come round. When a part has several segments, one is under way while another is worked
/// on.
double ring_half(double bytes, std::span<const Hops> ring, double gamma) {
  int ranks = 0;
  for (const Hops& hops : ring) ranks += hops.count;
  const double part = bytes / ranks;
  const double first = std::min<double>(part, kSegmentBytes);
  double busiest = 0;
  double around = 0;
  for (const auto& [link, count] : ring) {
    if (count == 0) continue;
    const group::LinkSpeed worked{link.latency, link.seconds_per_byte + gamma};
    busiest = std::max(busiest, part * worked.seconds_per_byte);
    around += count * worked.seconds(first);
  }
  return (ranks - 1) * std::max(busiest, around / ranks);
}

/// A round of a ring: parts go there to be combined, and back. Of several segments only the last
/// one's latency shows.
double ring_round(double bytes, std::span<const Hops> ring, double gamma) {
  int ranks = 0;
  double latency = 0;
  for (const auto& [link, count] : ring) {
    ranks += count;
    if (count > 0) latency = std::max(latency, link.latency);
  }
  return ring_half(bytes, ring, gamma) + ring_half(bytes, ring, 0) +
         (bytes / ranks > kSegmentBytes ? latency : 0);
}
double ring_round(double bytes, int ranks, const group::LinkSpeed& link, double gamma) {
  const Hops all[] = {{link, ranks}};
  return ring_round(bytes, all, gamma);
}

/// What several ranks of a host send at the same time over its link.
group::LinkSpeed shared(const group::LinkSpeed& link, int senders) {
  return {link.latency, link.seconds_per_byte * senders};
}

struct Exchanges {
  int power = 1;     ///< ranks that play
  double folds = 0;  ///< 1 if others fold
};
Exchanges exchanges_among(int ranks) {
  const auto n = static_cast<unsigned>(ranks);
  return {static_cast<int>(std::bit_floor(n)), std::has_single_bit(n) ? 0.0 : 1.0};
}

/// The link of partners at a distance of `distance` players, when all exchange at once. Of those
/// that fold, one in two plays: its partner is twice as many positions away.
group::LinkSpeed partners(const Network& n, int distance, const Exchanges& game) {
  if (n.hosts == 1) return n.local;
  const int m = n.largest_host;
  const int positions = game.folds > 0 ? 2 * distance : distance;
  const bool aligned =
      m == n.smallest_host && std::has_single_bit(static_cast<unsigned>(m)) && positions < m;
  return aligned ? n.local : shared(n.remote, std::min(distance, m));
}

/// Whole arrays come in before an algorithm for a power of two, and the result goes back: between
/// neighbours.
double folding(double bytes, const Network& n) {
  const group::LinkSpeed link = partners(n, 1, {});
  return combined(bytes, link, n.reduce_seconds_per_byte) + link.seconds(bytes);
}

/// Site by site, and in them host by host.
std::array<Hops, 2 + Network::kMostLevels> ring_of_sites(const Network& n) {
  std::array<Hops, 2 + Network::kMostLevels> ring{};
  ring[0] = {n.local, n.ranks - n.hosts};
  int left = n.hosts;
  for (int i = 0; i < n.levels; ++i) {
    const Network::Level& level = n.sites[static_cast<std::size_t>(i)];
    ring[static_cast<std::size_t>(1 + i)] = {level.within, left - level.groups};
    left = level.groups;
  }
  const auto top = static_cast<std::size_t>(n.levels);
  ring[1 + top] = {n.sites[top - 1].ring, left};
  return ring;
}

/// 2(N-1) messages of B/N; half of them are combined. Where no link is much slower than others each
/// step counts as one over the slowest: the ranks of a host are never quite in step.
double predict_ring(double bytes, const Network& n) {
  const double gamma = n.reduce_seconds_per_byte;
  if (n.levels > 0) return ring_round(bytes, ring_of_sites(n), gamma);
  const double between = n.hosts > 1 ? ring_round(bytes, n.ranks, n.ring, gamma) : 0;
  return n.largest_host > 1 ? std::max(between, ring_round(bytes, n.ranks, n.local, gamma))
                            : between;
}

/// log2 P messages of B, all of them combined; folding adds two messages, one of them combined.
double predict_recursive_doubling(double bytes, const Network& n) {
  const Exchanges game = exchanges_among(n.ranks);
  double seconds = game.folds > 0 ? folding(bytes, n) : 0;
  for (int distance = 1; distance < game.power; distance *= 2) {
    seconds += combined(bytes, partners(n, distance, game), n.reduce_seconds_per_byte);
  }
  return seconds;
}

/// B/2, B/4, … there and back; those on the way there are combined.
double predict_rabenseifner(double bytes, const Network& n) {
  const Exchanges game = exchanges_among(n.ranks);
  double seconds = game.folds > 0 ? folding(bytes, n) : 0;
  double part = bytes;
  for (int distance = 1; distance < game.power; distance *= 2) {
    part /= 2;
    const group::LinkSpeed link = partners(n, distance, game);
    seconds += combined(part, link, n.reduce_seconds_per_byte) + link.seconds(part);
  }
  return seconds;
}

/// Ranks that idle in a step are early in the next, and their message meets the one of the step
/// before on the receiver's link. Simulated: 1.14 to 1.37 times the time without that, for 3 to 64
/// ranks.
constexpr double kTreeMeetings = 1.3;

/// Two trees, pipelined without overlap: see two_trees.h for the number of steps. Of a host's
/// ranks, two have neighbours on other hosts.
double predict_tree(double bytes, const Network& n) {
  const auto packets = static_cast<double>(tree_packets(static_cast<std::size_t>(bytes)));
  const double depth = std::bit_width(static_cast<unsigned>(n.ranks - 1));
  const double steps = 2.5 * packets + 4 * depth;
  group::LinkSpeed link = n.hosts > 1 ? shared(n.remote, std::min(2, n.largest_host)) : n.local;
  if (n.hosts > 1 && n.ranks > 2) link.seconds_per_byte *= kTreeMeetings;
  const double packet = bytes / packets;
  return steps * (link.seconds(packet) + packet * n.reduce_seconds_per_byte / 2);
}

/// A level of the hierarchical algorithm: hosts of ranks, or sites of hosts. Of each link of the
/// lowest groups, all that send at the same time have a share.
Network::Level level_of(const Network& n, int number) {
  if (number == 0) {
    return {n.hosts,
            n.largest_host,
            n.smallest_host,
            n.local,
            shared(n.remote, n.smallest_host),
            shared(n.ring, n.smallest_host)};
  }
  int below = n.smallest_host;
  for (int i = 1; i < number; ++i) below *= n.sites[static_cast<std::size_t>(i - 1)].smallest;
  Network::Level level = n.sites[static_cast<std::size_t>(number - 1)];
  level.within = shared(level.within, below);
  level.between = shared(level.between, below * level.smallest);
  level.ring = shared(level.ring, below * level.smallest);
  return level;
}

double doubling_between(double slice, const Network::Level& level, double gamma) {
  const Exchanges game = exchanges_among(level.groups);
  const double exchanges = std::bit_width(static_cast<unsigned>(game.power)) - 1;
  return (exchanges + game.folds) * combined(slice, level.between, gamma) +
         game.folds * level.between.seconds(slice);
}

struct Way {
  Between between = Between::kDoubling;
  double seconds = 0;
};

double predict_level(double bytes, const Network& n, int number);

/// The fastest way between the groups of a level.
Way way_of(double slice, const Network& n, int number) {
  const Network::Level level = level_of(n, number);
  const double gamma = n.reduce_seconds_per_byte;
  Way best{Between::kDoubling, doubling_between(slice, level, gamma)};
  const double ring = ring_round(slice, level.groups, level.ring, gamma);
  if (ring < best.seconds) best = {Between::kRing, ring};
  if (number == n.levels) return best;
  const double sites = predict_level(slice, n, number + 1);
  if (sites < best.seconds) best = {Between::kSites, sites};
  return best;
}

/// Slices within the groups, there and back, and the fastest of the ways between them.
double predict_level(double bytes, const Network& n, int number) {
  const Network::Level level = level_of(n, number);
  const double slice = bytes / level.smallest;
  const double within =
      combined(slice, level.within, n.reduce_seconds_per_byte) + level.within.seconds(slice);
  return (level.largest - 1) * within + (level.groups > 1 ? way_of(slice, n, number).seconds : 0);
}

double predict_hierarchical(double bytes, const Network& n) { return predict_level(bytes, n, 0); }

std::string microseconds(double seconds) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f us", seconds * 1e6);
  return text;
}

}  // namespace

Network::Network(const group::Topology& topology)
    : ranks(topology.size()),
      hosts(topology.hosts()),
      largest_host(topology.largest_host()),
      smallest_host(topology.smallest_host()),
      local(topology.speeds().local),
      remote(topology.slowest_remote()),
      ring(topology.slowest_in_ring()),
      reduce_seconds_per_byte(topology.speeds().reduce_seconds_per_byte) {
  // Of links that are equal, those measured as the slowest are outside of the ring: no merit of it.
  const bool alike = remote.seconds(kSegmentBytes) <= kAlike * ring.seconds(kSegmentBytes);
  if (alike) remote = ring;
  const group::Topology* above = topology.sites();
  for (; above != nullptr && levels < kMostLevels; above = above->sites()) {
    sites[static_cast<std::size_t>(levels++)] = {.groups = above->hosts(),
                                                 .largest = above->largest_host(),
                                                 .smallest = above->smallest_host(),
                                                 .within = above->speeds().local,
                                                 .between = above->slowest_remote(),
                                                 .ring = above->slowest_in_ring()};
  }
  if (levels == 0) return;
  // A ring that seems to cross between sites faster than most links do has a measurement's luck.
  ring.latency = std::max(ring.latency, sites[0].ring.latency);
  ring.seconds_per_byte = std::max(ring.seconds_per_byte, sites[0].ring.seconds_per_byte);
}

Network Network::uniform(int ranks, const group::LinkSpeed& link, double reduce_seconds_per_byte) {
  Network n;
  n.ranks = n.hosts = ranks;
  n.local = n.remote = n.ring = link;
  n.reduce_seconds_per_byte = reduce_seconds_per_byte;
  return n;
}

double predict(Algorithm algorithm, std::size_t bytes, const Network& network) {
  if (network.ranks < 2 || bytes == 0) return 0;
  const auto b = static_cast<double>(bytes);
  switch (algorithm) {
    case Algorithm::kRing:
      return predict_ring(b, network);
    case Algorithm::kRecursiveDoubling:
      return predict_recursive_doubling(b, network);
    case Algorithm::kRabenseifner:
      return predict_rabenseifner(b, network);
    case Algorithm::kTree:
      return predict_tree(b, network);
    case Algorithm::kHierarchical:
      return predict_hierarchical(b, network);
    case Algorithm::kAuto:
    case Algorithm::kWindow:  // not a matter of messages
      break;
  }
  return fastest(bytes, network).seconds;
}

Candidate fastest(std::size_t bytes, const Network& network, std::span<const Candidate> others) {
  std::array<double, kCandidates.size()> seconds{};
  double least = std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < kCandidates.size(); ++i) {
    seconds[i] = is_candidate(kCandidates[i], bytes, network)
                     ? predict(kCandidates[i], bytes, network)
                     : std::numeric_limits<double>::infinity();
    least = std::min(least, seconds[i]);
  }
  std::size_t chosen = 0;
  while (seconds[chosen] > least * kAsFast) ++chosen;
  Candidate best{kCandidates[chosen], seconds[chosen]};
  for (const Candidate& other : others) {
    if (other.seconds <= best.seconds) best = other;
  }
  return best;
}

Choice choose(std::size_t bytes, const Network& network, std::span<const Candidate> others) {
  const Candidate best = fastest(bytes, network, others);
  Choice choice{.algorithm = best.algorithm,
                .predicted_seconds = best.seconds,
                .candidates = {others.begin(), others.end()}};
  for (const Algorithm algorithm : kCandidates) {
    if (!is_candidate(algorithm, bytes, network)) continue;
    choice.candidates.push_back({algorithm, predict(algorithm, bytes, network)});
  }
  choice.reason = std::to_string(bytes) + " bytes over " + std::to_string(network.ranks) +
                  " ranks on " + std::to_string(network.hosts) +
                  (network.hosts == 1 ? " host" : " hosts");
  if (network.levels > 0)
    choice.reason += " at " + std::to_string(network.sites[0].groups) + " sites";
  choice.reason += ": ";
  for (const Candidate& c : choice.candidates) {
    if (&c != &choice.candidates[0]) choice.reason += ", ";
    choice.reason += std::string(to_string(c.algorithm)) + " " + microseconds(c.seconds);
  }
  choice.reason += "; chosen: " + std::string(to_string(choice.algorithm));
  return choice;
}

std::string explain_all_reduce(const group::Group& group, std::size_t bytes) {
  if (group.size() == 1) return "one rank: nothing to do";
  if (group.shares_memory()) {
    return std::to_string(bytes) + " bytes over " + std::to_string(group.size()) +
           " ranks that map each other's memory: chosen: window";
  }
  if (!group.topology()) return "nothing is known of the links yet";
  const group::Topology& topology = *group.topology();
  return choose(bytes, Network(topology)).reason +
         (topology.speeds().measured ? " (links measured)" : " (links assumed)");
}

Between way_between(std::size_t slice_bytes, const Network& network, int level) {
  return way_of(static_cast<double>(slice_bytes), network, level).between;
}

bool broadcast_prefers_chain(std::size_t bytes, int ranks, const group::LinkSpeed& link) {
  if (ranks < 3) return true;
  const auto segments = static_cast<double>(segments_for(bytes));
  const double transfer = static_cast<double>(bytes) * link.seconds_per_byte;
  const double depth = std::bit_width(static_cast<unsigned>(ranks - 1));
  const double hop = link.latency + transfer / segments;
  // The first segment goes all the way; the others follow as fast as the link takes them.
  const double pace = std::max(transfer / segments, hop / static_cast<double>(in_flight(link)));
  const double chain = (ranks - 1) * hop + (segments - 1) * pace;
  return chain < depth * (link.latency + transfer);
}

}  // namespace gearshift::collectives
