#include "collectives/arguments.h"

#include <functional>
#include <numeric>
#include <string>

namespace gearshift::collectives {
namespace {

base::Error invalid(std::string_view name, const std::string& what) {
  return {base::ErrorCode::kInvalidArgument, std::string(name) + ": " + what};
}

std::string bytes(std::size_t count) { return std::to_string(count) + " bytes"; }

base::Status check_sizes_of(const group::Group& group, std::string_view name,
                            std::string_view array, base::ConstBytes data,
                            const std::vector<std::size_t>& sizes) {
  if (sizes.size() != static_cast<std::size_t>(group.size())) {
    return invalid(name, std::to_string(sizes.size()) + " sizes for a group of " +
                             std::to_string(group.size()));
  }
  const std::size_t sum = std::accumulate(sizes.begin(), sizes.end(), std::size_t{0});
  if (sum == data.size()) return {};
  return invalid(name, "the sizes add up to " + bytes(sum) + ", `" + std::string(array) + "` has " +
                           bytes(data.size()));
}

bool overlap(base::ConstBytes a, base::ConstBytes b) {
  if (a.data() == nullptr || b.data() == nullptr || a.empty() || b.empty()) return false;
  const std::less<const std::byte*> before;
  return before(a.data(), b.data() + b.size()) && before(b.data(), a.data() + a.size());
}

}  // namespace

std::string reduction_text(base::DType dtype, base::ReduceOp op) {
  return std::string(base::to_string(op)) + " of " + std::string(base::to_string(dtype));
}

base::Status check_whole_elements(std::string_view name, base::ConstBytes data, base::DType dtype) {
  if (data.size() % base::size_of(dtype) == 0) return {};
  return invalid(name, bytes(data.size()) + " are no whole number of " +
                           std::string(base::to_string(dtype)) + " elements");
}

base::Status check_algorithm(Algorithm algorithm) {
  if (algorithm <= Algorithm::kWindow) return {};
  return invalid("all_reduce",
                 "there is no algorithm " + std::to_string(static_cast<int>(algorithm)));
}

base::Status check_rank(const group::Group& group, std::string_view name, base::Rank rank) {
  if (rank.value >= 0 && rank.value < group.size()) return {};
  return invalid(name, "rank " + std::to_string(rank.value) + " does not exist in a group of " +
                           std::to_string(group.size()));
}

base::Status check_peer(const group::Group& group, std::string_view name, base::Rank peer) {
  GEARSHIFT_RETURN_IF_ERROR(check_rank(group, name, peer));
  if (peer != group.rank()) return {};
  return invalid(name, "rank " + std::to_string(peer.value) + " cannot be its own peer");
}

base::Status check_part(const group::Group& group, base::ConstBytes data, base::ConstBytes out,
                        base::DType dtype) {
  GEARSHIFT_RETURN_IF_ERROR(check_whole_elements("reduce_scatter", data, dtype));
  const std::size_t elements = data.size() / base::size_of(dtype);
  const auto size = static_cast<std::size_t>(group.size());
  const auto rank = static_cast<std::size_t>(group.rank().value);
  const std::size_t expected =
      (part_begin(elements, size, rank + 1) - part_begin(elements, size, rank)) *
      base::size_of(dtype);
  if (out.size() == expected) return {};
  return invalid("reduce_scatter", "`out` has " + bytes(out.size()) + ", but part " +
                                       std::to_string(rank) + " of " + std::to_string(size) +
                                       " of " + bytes(data.size()) + " has " + bytes(expected));
}

base::Status check_sizes(const group::Group& group, base::ConstBytes data,
                         const std::vector<std::size_t>& sizes) {
  return check_sizes_of(group, "all_gather_v", "data", data, sizes);
}

base::Status check_uneven_blocks(const group::Group& group, base::ConstBytes in,
                                 const std::vector<std::size_t>& in_sizes, base::ConstBytes out,
                                 const std::vector<std::size_t>& out_sizes) {
  constexpr std::string_view kName = "all_to_all_v";
  GEARSHIFT_RETURN_IF_ERROR(check_sizes_of(group, kName, "in", in, in_sizes));
  GEARSHIFT_RETURN_IF_ERROR(check_sizes_of(group, kName, "out", out, out_sizes));
  const auto own = static_cast<std::size_t>(group.rank().value);
  if (in_sizes[own] != out_sizes[own]) {
    return invalid(kName, "this rank sends itself " + bytes(in_sizes[own]) + " and takes " +
                              bytes(out_sizes[own]));
  }
  if (overlap(in, out)) return invalid(kName, "`in` and `out` overlap");
  return {};
}

base::Status check_rooted(const group::Group& group, std::string_view name, base::ConstBytes all,
                          base::ConstBytes one) {
  const std::size_t expected = one.size() * static_cast<std::size_t>(group.size());
  if (all.size() == expected) return {};
  return invalid(name,
                 "the root's array has " + bytes(all.size()) + ", needed are " + bytes(expected));
}

base::Status check_blocks(const group::Group& group, base::ConstBytes in, base::ConstBytes out) {
  if (in.size() != out.size()) {
    return invalid("all_to_all",
                   "`in` has " + bytes(in.size()) + ", `out` has " + bytes(out.size()));
  }
  if (in.size() % static_cast<std::size_t>(group.size()) != 0) {
    return invalid("all_to_all", bytes(in.size()) + " cannot be cut into " +
                                     std::to_string(group.size()) + " equal blocks");
  }
  if (overlap(in, out)) return invalid("all_to_all", "`in` and `out` overlap");
  return {};
}

}  // namespace gearshift::collectives
