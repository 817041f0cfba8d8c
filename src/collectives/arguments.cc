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
  if (sizes.size() != static_cast<std::size_t>(group.size())) {
    return invalid("all_gather_v", std::to_string(sizes.size()) + " sizes for a group of " +
                                       std::to_string(group.size()));
  }
  const std::size_t sum = std::accumulate(sizes.begin(), sizes.end(), std::size_t{0});
  if (sum == data.size()) return {};
  return invalid("all_gather_v",
                 "the sizes add up to " + bytes(sum) + ", `data` has " + bytes(data.size()));
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
  const std::less<const std::byte*> before;
  const bool real = in.data() != nullptr && out.data() != nullptr && !in.empty();
  if (real && before(in.data(), out.data() + out.size()) &&
      before(out.data(), in.data() + in.size())) {
    return invalid("all_to_all", "`in` and `out` overlap");
  }
  return {};
}

}  // namespace gearshift::collectives
