#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "support/gate.h"

namespace gearshift::bench {

/// Floats that the comparison is done with.
enum class Element { kFloat32, kFloat16, kBFloat16 };
Element element_named(const std::string& name);  ///< throws std::invalid_argument
std::size_t size_of(Element element);

/// Somebody's all-reduce (sum, in place, over all ranks). Both functions throw on errors.
class Subject {
 public:
  virtual ~Subject() = default;
  /// Memory of so many bytes to work in: the same until another size is asked for. Collective.
  virtual std::byte* memory(std::size_t bytes) = 0;
  virtual void all_reduce(std::byte* data, std::size_t bytes) = 0;
  /// How it does so for this size, and why; for orders with explain=1.
  virtual std::string explain(std::size_t bytes) const { return std::to_string(bytes) + " bytes"; }
};

/// Serves the gate's orders (bytes, batches, operations per batch, computing: how many processes
/// compute beside each rank meanwhile) until there are none.
///
/// A round: fill, one all-reduce, check every element; then, over zeros, the batches that are
/// timed, without anything in between; then fill, one all-reduce and check once more.
void serve_all_reduce(Gate& gate, Subject& subject, Element element, int rank, int ranks);

/// `count` elements of rank `rank`: small whole numbers, whose sums every type holds exactly for up
/// to 8 ranks.
void fill(std::byte* data, std::size_t bytes, Element element, int rank);
/// Compares with the closed formula of the sum; says what is wrong, "" when nothing is.
std::string check_sum(const std::byte* data, std::size_t bytes, Element element, int ranks);

}  // namespace gearshift::bench
