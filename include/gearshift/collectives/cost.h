#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "gearshift/collectives/collectives.h"
#include "gearshift/group/topology.h"

namespace gearshift::collectives {

/// What predictions need to know of a network: the α–β–γ model with two kinds of links, those
/// within hosts and those between them, and where hosts are at several sites, those between sites,
/// too. What the ranks of a host (of a site) send out of it at the same time shares its link.
struct Network {
  explicit Network(const group::Topology& topology);
  /// Ranks on hosts of their own, with equal links.
  static Network uniform(int ranks, const group::LinkSpeed& link, double reduce_seconds_per_byte);

  /// Groups: sites of hosts, or sites of sites; see group::Topology::sites.
  struct Level {
    int groups = 1;
    int largest = 1;             ///< hosts (or sites) in it
    int smallest = 1;            ///< hosts (or sites) in it
    group::LinkSpeed within{};   ///< between two of them in one group
    group::LinkSpeed between{};  ///< the slowest between two groups
    group::LinkSpeed ring{};     ///< the slowest between neighbours of the ring of groups
  };
  static constexpr int kMostLevels = 2;

  int ranks = 1;
  int hosts = 1;
  int largest_host = 1;   ///< ranks on it
  int smallest_host = 1;  ///< ranks on it
  group::LinkSpeed local{};
  group::LinkSpeed remote{};  ///< the slowest between any two hosts
  group::LinkSpeed ring{};    ///< the slowest between neighbours of the ring of hosts
  double reduce_seconds_per_byte = 0;
  int levels = 0;  ///< of sites above the hosts
  std::array<Level, kMostLevels> sites{};

 private:
  Network() = default;
};

/// An algorithm and the time that it is predicted to take.
struct Candidate {
  Algorithm algorithm = Algorithm::kRing;
  double seconds = 0;
};

struct Choice {
  Algorithm algorithm = Algorithm::kRing;
  double predicted_seconds = 0;
  std::vector<Candidate> candidates{};  ///< all that were considered
  std::string reason{};  ///< one line for `explain`: the candidates with their predicted times
};

/// Predicted time of an all-reduce of `bytes`; kAuto (and kWindow, which sends nothing): that of
/// the fastest algorithm. Each formula is that of the algorithm's header: steps in sequence, each
/// as long as its slowest message and combining it; in a ring whose parts have several segments,
/// latency counts once. A ring among sites takes as long as its slowest link is busy, or as a part
/// is on its way round, twice: it crosses from site to site only as often as there are sites.
double predict(Algorithm algorithm, std::size_t bytes, const Network& network);

/// The fastest algorithm by the model, without an explanation: allocates nothing. Of several within
/// 5 % of the fastest it is the one with the steadiest flows (host by host, ring, Rabenseifner,
/// recursive doubling, trees). `others` are candidates whose time the caller knows; as fast as
/// ours, theirs win.
/// Deterministic: equal inputs choose equally on all ranks.
Candidate fastest(std::size_t bytes, const Network& network,
                  std::span<const Candidate> others = {});
/// The same with an explanation.
Choice choose(std::size_t bytes, const Network& network, std::span<const Candidate> others = {});

/// How `all_reduce` would carry out kAuto on this group, and why, in one line. Not collective; says
/// so when nothing is known of the links yet.
std::string explain_all_reduce(const group::Group& group, std::size_t bytes);

/// How the hierarchical all-reduce carries slices of `slice_bytes` between hosts (level 0), or
/// between sites (1 and above): whichever is predicted to be faster. `kSites`: through the level
/// above.
enum class Between : unsigned char { kDoubling, kRing, kSites };
Between way_between(std::size_t slice_bytes, const Network& network, int level = 0);

/// Whether a broadcast is faster along a pipelined chain than down a binomial tree.
bool broadcast_prefers_chain(std::size_t bytes, int ranks, const group::LinkSpeed& link);

}  // namespace gearshift::collectives
