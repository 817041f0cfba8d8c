#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "gearshift/base/bytes.h"
#include "gearshift/base/dtype.h"
#include "gearshift/base/ids.h"
#include "gearshift/base/result.h"
#include "gearshift/collectives/collectives.h"
#include "gearshift/group/group.h"

namespace gearshift::collectives {

/// "sum of float32", for messages.
std::string reduction_text(base::DType dtype, base::ReduceOp op);

/// Checks of what a caller passes; kInvalidArgument says what is wrong. `name` is the operation.

base::Status check_whole_elements(std::string_view name, base::ConstBytes data, base::DType dtype);
/// `algorithm` is one of the enumeration's, whose last is kWindow.
base::Status check_algorithm(Algorithm algorithm);
/// `rank` exists in the group.
base::Status check_rank(const group::Group& group, std::string_view name, base::Rank rank);
/// `peer` exists in the group and is another rank.
base::Status check_peer(const group::Group& group, std::string_view name, base::Rank peer);
/// `out` has the size of this rank's part of `data`.
base::Status check_part(const group::Group& group, base::ConstBytes data, base::ConstBytes out,
                        base::DType dtype);
/// One size per rank, `data.size()` in all.
base::Status check_sizes(const group::Group& group, base::ConstBytes data,
                         const std::vector<std::size_t>& sizes);
/// One size per rank for each of them, as many bytes in all, and they do not overlap.
base::Status check_uneven_blocks(const group::Group& group, base::ConstBytes in,
                                 const std::vector<std::size_t>& in_sizes, base::ConstBytes out,
                                 const std::vector<std::size_t>& out_sizes);
/// `all` has size() blocks of `one`'s size.
base::Status check_rooted(const group::Group& group, std::string_view name, base::ConstBytes all,
                          base::ConstBytes one);
/// Equal arrays of size() blocks that do not overlap.
base::Status check_blocks(const group::Group& group, base::ConstBytes in, base::ConstBytes out);

}  // namespace gearshift::collectives
