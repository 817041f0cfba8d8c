#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "gearshift/base/result.h"
#include "gearshift/base/scheduler.h"
#include "gearshift/group/group.h"
#include "gearshift/group/topology.h"

namespace gearshift::collectives {

/// When links are measured. The ranks' wishes are merged: who wants kAlways wins, then kNever.
enum class Measure : std::uint8_t {
  kNever,           ///< LinkSpeeds{} is assumed
  kIfSeveralHosts,  ///< within one host all algorithms see the same links
  kAlways           ///< even if the speeds are known
};

struct SurveyOptions {
  Measure measure = Measure::kIfSeveralHosts;
  /// Speeds that this rank knows from an earlier survey of the same hosts. Used instead of a
  /// measurement when every rank knows the same.
  std::optional<group::LinkSpeeds> known{};
  /// How long measuring should take in all. A pair of ranks goes on beyond its share of this until
  /// a transfer has taken 10 ms (or 16 MiB have passed), for shorter ones tell a token bucket from
  /// a fast link as little as a busy processor from a slow one.
  base::Duration budget = std::chrono::milliseconds(200);
};

/// Finds out which ranks share a host (`capabilities().same_host` of the links), and how fast the
/// links are; hands the result to the group (and to copies and subgroups that are made of it).
/// Collective: every rank calls it, like an operation of this group. The result is equal on all
/// ranks to the last bit, since it decides who sends what to whom.
///
/// Cost: one all-gather of 16 bytes per rank, in ceil(log2 N) steps. When links are measured:
/// ping-pongs of small messages, then exchanges of growing ones, both ways at once, between two
/// ranks of each host and then between each pair of hosts in the rounds of a tournament, so that no
/// host is in two measurements at a time; at most 32 rounds, what remains is taken for the median.
/// Then one all-reduce of 2H² + 3 doubles for H hosts.
/// Errors: as for any collective.
base::Result<std::shared_ptr<const group::Topology>> survey(group::Group& group,
                                                            const SurveyOptions& options = {});

/// The group's topology; if nothing is known yet, a survey that measures nothing (and sends nothing
/// when all links of this rank stay on its host). Collective like `survey`.
base::Result<std::shared_ptr<const group::Topology>> topology_of(group::Group& group);

}  // namespace gearshift::collectives
