#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace gearshift::collectives {

/// Two binary trees over positions 0 … n-1 that complement each other: whoever has children in one
/// is a leaf in the other (but for one position, if n is odd). Each carries half of the data, so
/// that everybody sends and receives about the same.
///
/// The first is the in-order tree: of positions counted from 1, those with an odd number are
/// leaves. The second is its mirror image (n even) or is shifted by one (n odd).
struct TwoTrees {
  struct Node {
    int parent = -1;
    std::vector<int> children;  ///< ascending, at most two
  };
  std::vector<Node> nodes[2];  ///< tree → position

  explicit TwoTrees(int n);
};

/// One step of one position: a message leaves, another one comes. Packets are numbered over both
/// trees: packet q travels in tree q % 2.
struct TreeStep {
  std::uint32_t number = 0;  ///< of the step, from 0
  int to = -1;
  int from = -1;
  std::uint32_t sent = 0;      ///< packet
  std::uint32_t received = 0;  ///< packet
  bool combines = false;       ///< received on its way up
  bool completes = false;      ///< with this the packet is complete at the root
};

/// When which packet goes up (to be combined) and down (as the result) the two trees, such that in
/// a step nobody sends, or receives, more than one message: found by playing it through, the oldest
/// packet first. Each position sends one message per packet to each of its neighbours in the
/// packet's tree, and receives one from each. Immutable.
///
/// Takes O(n · steps); steps are about 2.5 · packets + 4·⌈log2 n⌉, and not more than
/// 3 · packets + 6·⌈log2 n⌉ for n ≤ 64.
class TreeTimetable {
 public:
  TreeTimetable(int n, std::size_t packets);

  /// The one for n positions and so many packets. Training repeats few sizes: what a thread used
  /// last is kept, for all positions, since a simulation has all of them in one thread.
  static std::shared_ptr<const TreeTimetable> find(int n, std::size_t packets);

  int size() const { return static_cast<int>(positions_.size()); }
  std::size_t packets() const { return packets_; }
  std::size_t steps() const { return steps_; }
  /// The steps in which a position is not idle, ascending.
  std::span<const TreeStep> of(int position) const {
    return positions_[static_cast<std::size_t>(position)];
  }

 private:
  std::size_t packets_;
  std::size_t steps_ = 0;
  std::vector<std::vector<TreeStep>> positions_;
};

}  // namespace gearshift::collectives
