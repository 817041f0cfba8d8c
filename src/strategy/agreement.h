#pragma once

#include <string>
#include <vector>

#include "gearshift/base/result.h"
#include "gearshift/group/group.h"

namespace gearshift::strategy {

/// Collective: compares this rank's lines with rank 0's. On every rank, also where all is equal,
/// kMismatch names the first difference of the lowest rank that differs.
base::Status check_agreement(group::Group& group, const std::vector<std::string>& lines);

/// Collective: every rank's value, by rank.
base::Result<std::vector<std::uint64_t>> gather_u64(group::Group& group, std::uint64_t mine,
                                                    const std::string& label,
                                                    base::Duration timeout);

/// Collective: rank root's bytes on every rank; the size need not be known elsewhere.
base::Result<std::vector<std::byte>> broadcast_blob(group::Group& group, base::ConstBytes mine,
                                                    base::Rank root, const std::string& label);

}  // namespace gearshift::strategy
