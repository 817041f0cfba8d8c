#include "gearshift/collectives/collectives.h"

#include <cstring>
#include <string_view>

#include "collectives/all_gather/bruck.h"
#include "collectives/all_gather/ring.h"
#include "collectives/all_reduce/hierarchical.h"
#include "collectives/all_reduce/rabenseifner.h"
#include "collectives/all_reduce/recursive_doubling.h"
#include "collectives/all_reduce/ring.h"
#include "collectives/all_reduce/tree.h"
#include "collectives/all_to_all/pairwise.h"
#include "collectives/arguments.h"
#include "collectives/barrier/dissemination.h"
#include "collectives/blocks.h"
#include "collectives/broadcast/chain.h"
#include "collectives/broadcast/tree.h"
#include "collectives/operation.h"
#include "collectives/reduce_scatter/ring.h"
#include "collectives/ring.h"
#include "collectives/segments.h"
#include "collectives/team.h"
#include "collectives/widen.h"
#include "collectives/window/all_reduce.h"
#include "collectives/window/movement.h"
#include "collectives/window/operation.h"
#include "gearshift/collectives/cost.h"
#include "gearshift/collectives/survey.h"
#include "gearshift/kernels/reduce.h"

namespace gearshift::collectives {
namespace {

using base::DType;
using base::ReduceOp;
using base::Status;
using Kind = Meaning::Kind;

/// A shorter one goes faster by messages, of which the root need not wait for anybody.
constexpr std::size_t kLeastWindowBroadcast = std::size_t{1} << 20;

bool widens(DType dtype, ReduceOp op) {
  return op == ReduceOp::kMean && mean_needs_widening(dtype);
}

void copy(base::ConstBytes from, base::Bytes into) {
  if (from.empty() || from.data() == nullptr || into.data() == nullptr) return;
  std::memmove(into.data(), from.data(), from.size());
}

/// Nothing is asked of the network where nothing is to be sent.
base::Result<std::shared_ptr<const group::Topology>> topology_of(group::Group& group,
                                                                 base::ConstBytes data) {
  if (data.empty() && !group.topology()) {
    return std::make_shared<const group::Topology>(group::Topology::one_host(group.size()));
  }
  return collectives::topology_of(group);
}

/// With one rank, or no elements, every operation is complete once its sequence number is taken.
bool trivial(const Operation& operation, base::ConstBytes data) {
  return operation.size() == 1 || data.empty();
}

/// All ranks, in the topology's order.
Team everybody(const Operation& operation, const group::Topology& topology) {
  return {topology.order(), topology.position(operation.rank())};
}

Status run_all_reduce(Operation& operation, const group::Topology& topology, base::Bytes data,
                      DType dtype, ReduceOp op, Algorithm algorithm) {
  const Team team = everybody(operation, topology);
  switch (algorithm) {
    case Algorithm::kRecursiveDoubling:
      return recursive_doubling_all_reduce(operation, team, data, dtype, op);
    case Algorithm::kRabenseifner:
      return rabenseifner_all_reduce(operation, team, data, dtype, op);
    case Algorithm::kTree:
      return tree_all_reduce(operation, team, data, dtype, op);
    case Algorithm::kHierarchical:
      return hierarchical_all_reduce(operation, topology, data, dtype, op);
    case Algorithm::kAuto:
    case Algorithm::kRing:
    case Algorithm::kWindow:
      break;
  }
  return ring_all_reduce(operation, team, data, dtype, op);
}

/// Consecutive parts of these sizes.
template <typename View>
std::vector<View> cut(View data, const std::vector<std::size_t>& sizes) {
  std::vector<View> parts;
  parts.reserve(sizes.size());
  std::size_t offset = 0;
  for (const std::size_t size : sizes) {
    parts.push_back(base::slice(data, offset, size));
    offset += size;
  }
  return parts;
}

/// The window that data in ordinary memory are to pass; null: they go by messages. Of no bytes,
/// too: ranks that have some wait there for those that have none.
base::Result<group::Window*> passage_of(group::Group& group, base::ConstBytes data,
                                        const Options& options) {
  if (group.size() == 1 || base::is_phantom(data)) return nullptr;
  return window_of(group, options);
}

/// `window_name` must live for ever.
Status gather_parts(group::Group& group, std::string_view name, const char* window_name,
                    base::ConstBytes data, const std::vector<base::Bytes>& parts, std::size_t unit,
                    const Options& options) {
  GEARSHIFT_ASSIGN_OR_RETURN(group::Window* const window, passage_of(group, data, options));
  if (window != nullptr) return window_all_gather(group, *window, window_name, parts, options);
  GEARSHIFT_ASSIGN_OR_RETURN(const auto topology, topology_of(group, data));
  const bool bruck = gathers_by_bruck(data.size(), group.size());
  Operation operation(group, name, bruck ? "bruck" : "ring", options, {Meaning::Kind::kAllGather});
  if (trivial(operation, data)) return {};
  const Team team = everybody(operation, *topology);
  return bruck ? bruck_all_gather(operation, team, parts, unit)
               : ring_all_gather(operation, team, parts, unit);
}

/// Through messages: over any transport, and phantoms, too.
Status message_all_reduce(group::Group& group, base::Bytes data, Reduction reduction,
                          const Options& options) {
  const auto [dtype, op, meant] = reduction;
  GEARSHIFT_ASSIGN_OR_RETURN(const auto topology, topology_of(group, data));
  const Algorithm algorithm = options.algorithm == Algorithm::kAuto
                                  ? fastest(data.size(), Network(*topology)).algorithm
                                  : options.algorithm;
  Operation operation(
      group, "all_reduce", to_string(algorithm), options,
      Meaning::reduction(Meaning::Kind::kAllReduce, meant, op).of(data.size(), algorithm));
  if (options.factor != 1 && base::is_floating(dtype)) kernels::scale(dtype, data, options.factor);
  if (trivial(operation, data)) return {};
  return run_all_reduce(operation, *topology, data, dtype, op, algorithm);
}

/// The window that an operation on `data` is to use; null: it goes by messages.
base::Result<group::Window*> window_for(group::Group& group, base::ConstBytes data,
                                        const Options& options) {
  const bool wanted =
      options.algorithm == Algorithm::kAuto || options.algorithm == Algorithm::kWindow;
  if (!wanted || group.size() == 1 || base::is_phantom(data)) return nullptr;
  GEARSHIFT_ASSIGN_OR_RETURN(group::Window* const window, passage_of(group, data, options));
  if (window != nullptr || options.algorithm == Algorithm::kAuto) return window;
  return base::Error(base::ErrorCode::kUnsupported,
                     "all_reduce (window): the ranks of this group cannot map each other's memory; "
                     "leave the choice of the algorithm to \"auto\"");
}

Status any_all_reduce(group::Group& group, base::Bytes data, Reduction reduction,
                      const Options& options) {
  GEARSHIFT_ASSIGN_OR_RETURN(group::Window* const window, window_for(group, data, options));
  if (window != nullptr) return window_all_reduce(group, *window, data, reduction, options);
  return message_all_reduce(group, data, reduction, options);
}

Status any_reduce_scatter(group::Group& group, base::Bytes data, base::Bytes out,
                          Reduction reduction, const Options& options) {
  GEARSHIFT_ASSIGN_OR_RETURN(group::Window* const window, passage_of(group, data, options));
  if (window != nullptr) {
    const auto parts = equal_parts(data, base::size_of(reduction.dtype), group.size());
    return window_reduce_scatter(group, *window, parts, out, reduction, options);
  }
  GEARSHIFT_ASSIGN_OR_RETURN(const auto topology, topology_of(group, data));
  Operation operation(
      group, "reduce_scatter", "ring", options,
      Meaning::reduction(Meaning::Kind::kReduceScatter, reduction.meant, reduction.op));
  if (trivial(operation, data)) {
    copy(data, out);
    return {};
  }
  return ring_reduce_scatter(operation, everybody(operation, *topology), data, out, reduction.dtype,
                             reduction.op);
}

}  // namespace

Status all_reduce(group::Group& group, base::Bytes data, DType dtype, ReduceOp op,
                  const Options& options) {
  GEARSHIFT_RETURN_IF_ERROR(check_whole_elements("all_reduce", data, dtype));
  GEARSHIFT_RETURN_IF_ERROR(check_algorithm(options.algorithm));
  if (!widens(dtype, op)) return any_all_reduce(group, data, {dtype, op, dtype}, options);
  base::Buffer wide = widen(dtype, data);
  GEARSHIFT_RETURN_IF_ERROR(any_all_reduce(group, wide.view(), {DType::kI64, op, dtype}, options));
  narrow(dtype, wide.view(), data);
  return {};
}

Status reduce_scatter(group::Group& group, base::Bytes data, base::Bytes out, DType dtype,
                      ReduceOp op, const Options& options) {
  GEARSHIFT_RETURN_IF_ERROR(check_part(group, data, out, dtype));
  if (!widens(dtype, op)) {
    return any_reduce_scatter(group, data, out, {dtype, op, dtype}, options);
  }
  base::Buffer wide = widen(dtype, data);
  const base::Bytes wide_out =
      part(wide.view(), base::size_of(DType::kI64), group.size(), group.rank().value);
  GEARSHIFT_RETURN_IF_ERROR(
      any_reduce_scatter(group, wide.view(), wide_out, {DType::kI64, op, dtype}, options));
  narrow(dtype, wide_out, out);
  return {};
}

Status all_gather(group::Group& group, base::Bytes data, DType dtype, const Options& options) {
  GEARSHIFT_RETURN_IF_ERROR(check_whole_elements("all_gather", data, dtype));
  const std::size_t unit = base::size_of(dtype);
  return gather_parts(group, "all_gather", "all_gather (window)", data,
                      equal_parts(data, unit, group.size()), unit, options);
}

Status all_gather_v(group::Group& group, base::Bytes data, const std::vector<std::size_t>& sizes,
                    const Options& options) {
  GEARSHIFT_RETURN_IF_ERROR(check_sizes(group, data, sizes));
  return gather_parts(group, "all_gather_v", "all_gather_v (window)", data, cut(data, sizes), 1,
                      options);
}

Status broadcast(group::Group& group, base::Bytes data, base::Rank root, const Options& options) {
  GEARSHIFT_RETURN_IF_ERROR(check_rank(group, "broadcast", root));
  if (data.size() >= kLeastWindowBroadcast) {
    GEARSHIFT_ASSIGN_OR_RETURN(group::Window* const window, passage_of(group, data, options));
    if (window != nullptr) return window_broadcast(group, *window, data, root, options);
  }
  GEARSHIFT_ASSIGN_OR_RETURN(const auto topology, topology_of(group, data));
  const bool chain =
      broadcast_prefers_chain(data.size(), group.size(), topology->slowest_in_ring());
  Operation operation(group, "broadcast", chain ? "chain" : "tree", options,
                      Meaning::rooted(Kind::kBroadcast, root));
  if (trivial(operation, data)) return {};
  return chain ? chain_broadcast(operation, data, root.value)
               : tree_broadcast(operation, data, root.value);
}

Status all_to_all(group::Group& group, base::ConstBytes in, base::Bytes out,
                  const Options& options) {
  GEARSHIFT_RETURN_IF_ERROR(check_blocks(group, in, out));
  Operation operation(group, "all_to_all", "pairwise", options, {Meaning::Kind::kAllToAll});
  const std::size_t block = in.size() / static_cast<std::size_t>(operation.size());
  const std::size_t own = static_cast<std::size_t>(operation.rank()) * block;
  copy(base::slice(in, own, block), base::slice(out, own, block));
  if (trivial(operation, in)) return {};
  return pairwise_all_to_all(operation, in, out);
}

Status all_to_all_v(group::Group& group, base::ConstBytes in,
                    const std::vector<std::size_t>& in_sizes, base::Bytes out,
                    const std::vector<std::size_t>& out_sizes, const Options& options) {
  GEARSHIFT_RETURN_IF_ERROR(check_uneven_blocks(group, in, in_sizes, out, out_sizes));
  Operation operation(group, "all_to_all_v", "pairwise", options, {Meaning::Kind::kAllToAllV});
  return exchange_blocks(operation, cut(in, in_sizes), cut(out, out_sizes));
}

Status gather(group::Group& group, base::ConstBytes in, base::Bytes out, base::Rank root,
              const Options& options) {
  GEARSHIFT_RETURN_IF_ERROR(check_rank(group, "gather", root));
  const bool rooted = group.rank() == root;
  if (rooted) GEARSHIFT_RETURN_IF_ERROR(check_rooted(group, "gather", out, in));
  Operation operation(group, "gather", "direct", options, Meaning::rooted(Kind::kGather, root));
  const std::vector<std::size_t> sizes(static_cast<std::size_t>(group.size()), in.size());
  return gather_blocks(operation, root, in, rooted ? cut(out, sizes) : std::vector<base::Bytes>());
}

Status scatter(group::Group& group, base::ConstBytes in, base::Bytes out, base::Rank root,
               const Options& options) {
  GEARSHIFT_RETURN_IF_ERROR(check_rank(group, "scatter", root));
  const bool rooted = group.rank() == root;
  if (rooted) GEARSHIFT_RETURN_IF_ERROR(check_rooted(group, "scatter", in, out));
  Operation operation(group, "scatter", "direct", options, Meaning::rooted(Kind::kScatter, root));
  const std::vector<std::size_t> sizes(static_cast<std::size_t>(group.size()), out.size());
  return scatter_blocks(operation, root, rooted ? cut(in, sizes) : std::vector<base::ConstBytes>(),
                        out);
}

Status barrier(group::Group& group, const Options& options) {
  if (group.size() > 1) {
    GEARSHIFT_ASSIGN_OR_RETURN(group::Window* const window, window_of(group, options));
    if (window != nullptr) return window_barrier(group, *window, options);
  }
  Operation operation(group, "barrier", "dissemination", options, {Meaning::Kind::kBarrier});
  return dissemination_barrier(operation);
}

}  // namespace gearshift::collectives
