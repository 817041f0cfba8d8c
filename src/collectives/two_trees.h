#pragma once

#include <cstddef>
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
  int to = -1;
  int from = -1;
  std::size_t sent = 0;      ///< packet
  std::size_t received = 0;  ///< packet
  bool combines = false;     ///< received on its way up
  bool completes = false;    ///< with this the packet is complete at the root
};

/// When which packet goes up (to be combined) and down (as the result) the two trees, such that in
/// a step nobody sends, or receives, more than one message: found by playing it through, the oldest
/// packet first. Each position sends one message per packet to each of its neighbours in the
/// packet's tree, and receives one from each.
/// Takes O(n · steps); steps are about 2.5 · packets + 4·⌈log2 n⌉, and not more than
/// 3 · packets + 6·⌈log2 n⌉ for n ≤ 64.
std::vector<TreeStep> tree_steps(int n, std::size_t packets, int self);

}  // namespace gearshift::collectives
