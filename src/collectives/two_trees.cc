#include "collectives/two_trees.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace gearshift::collectives {
namespace {

/// The parent of v in the in-order tree over 1 … n; 0 for the root. Nodes beyond n are skipped.
int in_order_parent(int v, int n) {
  const int root = static_cast<int>(std::bit_floor(static_cast<unsigned>(n)));
  if (v == root) return 0;
  do {
    const int level = v & -v;
    v = (v & ~level) | (2 * level);
  } while (v > n);
  return v;
}

/// Plays the journey of all packets through, step by step.
class Play {
 public:
  Play(const TwoTrees& trees, int n, std::size_t packets, std::vector<std::vector<TreeStep>>& table)
      : n_(n), table_(table), places_{places_of(trees, 0), places_of(trees, 1)} {
    count_[0] = (packets + 1) / 2;
    count_[1] = packets / 2;
    for (int tree = 0; tree < 2; ++tree)
      left_ += 2 * count_[tree] * static_cast<std::size_t>(n - 1);
  }

  /// Returns the number of steps.
  std::size_t run() {
    for (; left_ > 0; ++number_) step();
    return number_;
  }

 private:
  /// How far one position has come in one tree. Counts are packets of that tree.
  struct Place {
    const TwoTrees::Node* node = nullptr;
    std::size_t from_child[2] = {};  ///< have come up from this child
    std::size_t sent_up = 0;
    std::size_t from_above = 0;    ///< results here; the root's are what has come up
    std::size_t to_child[2] = {};  ///< results passed on
  };
  struct Move {
    std::size_t tree, packet;  ///< packet of the tree
    int from, to;
    bool up;
  };

  static std::vector<Place> places_of(const TwoTrees& trees, int tree) {
    std::vector<Place> places;
    for (const TwoTrees::Node& node : trees.nodes[tree]) {
      places.emplace_back();
      places.back().node = &node;
    }
    return places;
  }

  /// Packets to which all children have contributed.
  std::size_t gathered(const Place& p, std::size_t tree) const {
    std::size_t ready = count_[tree];
    for (std::size_t c = 0; c < p.node->children.size(); ++c)
      ready = std::min(ready, p.from_child[c]);
    return ready;
  }

  void offer(int position, std::vector<Move>& moves) const {
    for (std::size_t tree = 0; tree < 2; ++tree) {
      const Place& p = places_[tree][static_cast<std::size_t>(position)];
      const std::size_t ready = gathered(p, tree);
      const int parent = p.node->parent;
      if (parent >= 0 && p.sent_up < ready)
        moves.push_back({tree, p.sent_up, position, parent, true});
      const std::size_t results = parent < 0 ? ready : p.from_above;
      for (std::size_t c = 0; c < p.node->children.size(); ++c) {
        if (p.to_child[c] < results) {
          moves.push_back({tree, p.to_child[c], position, p.node->children[c], false});
        }
      }
    }
  }

  /// Every position sends the oldest packet that it has for somebody who is still free.
  void step() {
    std::vector<Move> made;
    std::vector<bool> taken(static_cast<std::size_t>(n_));
    std::vector<Move> moves;  // of one position
    for (int i = 0; i < n_; ++i) {
      // Another one begins in each step, or the same would always be served first.
      const int position =
          static_cast<int>((static_cast<std::size_t>(i) + number_) % static_cast<std::size_t>(n_));
      moves.clear();
      offer(position, moves);
      const Move* best = nullptr;
      for (const Move& m : moves) {
        if (taken[static_cast<std::size_t>(m.to)]) continue;
        if (best == nullptr || m.packet < best->packet) best = &m;
      }
      if (best == nullptr) continue;
      taken[static_cast<std::size_t>(best->to)] = true;
      made.push_back(*best);
    }
    for (const Move& m : made) carry_out(m);
    left_ -= made.size();
  }

  void carry_out(const Move& m) {
    Place& sender = places_[m.tree][static_cast<std::size_t>(m.from)];
    Place& receiver = places_[m.tree][static_cast<std::size_t>(m.to)];
    if (m.up) {
      ++sender.sent_up;
      ++receiver.from_child[receiver.node->children[0] == m.from ? 0 : 1];
    } else {
      ++sender.to_child[sender.node->children[0] == m.to ? 0 : 1];
      ++receiver.from_above;
    }
    const auto packet = static_cast<std::uint32_t>(2 * m.packet + m.tree);
    TreeStep& there = entry(m.from);
    there.to = m.to;
    there.sent = packet;
    TreeStep& here = entry(m.to);
    here.from = m.from;
    here.received = packet;
    here.combines = m.up;
    here.completes =
        m.up && receiver.node->parent < 0 && gathered(receiver, m.tree) == m.packet + 1;
  }

  /// A position's entry for the step that is played.
  TreeStep& entry(int position) {
    std::vector<TreeStep>& entries = table_[static_cast<std::size_t>(position)];
    const auto number = static_cast<std::uint32_t>(number_);
    if (entries.empty() || entries.back().number != number) entries.push_back({.number = number});
    return entries.back();
  }

  const int n_;
  std::vector<std::vector<TreeStep>>& table_;
  std::vector<Place> places_[2];
  std::size_t count_[2] = {};
  std::size_t left_ = 0;    ///< messages
  std::size_t number_ = 0;  ///< of the step
};

}  // namespace

TwoTrees::TwoTrees(int n) {
  // Positions counted from 1, as the second tree sees them.
  const auto seen = [n](int v) { return n % 2 == 0 ? n + 1 - v : v % n + 1; };
  const auto seen_by = [n](int v) { return n % 2 == 0 ? n + 1 - v : (v + n - 2) % n + 1; };
  for (auto& tree : nodes) tree.resize(static_cast<std::size_t>(n));
  for (int v = 1; v <= n; ++v) {
    const int parents[] = {in_order_parent(v, n), in_order_parent(seen(v), n)};
    nodes[0][static_cast<std::size_t>(v - 1)].parent = parents[0] - 1;
    nodes[1][static_cast<std::size_t>(v - 1)].parent =
        parents[1] == 0 ? -1 : seen_by(parents[1]) - 1;
  }
  for (auto& tree : nodes) {
    for (int v = 0; v < n; ++v) {
      const int parent = tree[static_cast<std::size_t>(v)].parent;
      if (parent >= 0) tree[static_cast<std::size_t>(parent)].children.push_back(v);
    }
  }
}

TreeTimetable::TreeTimetable(int n, std::size_t packets)
    : packets_(packets), positions_(static_cast<std::size_t>(n)) {
  const TwoTrees trees(n);
  steps_ = Play(trees, n, packets, positions_).run();
}

std::shared_ptr<const TreeTimetable> TreeTimetable::find(int n, std::size_t packets) {
  constexpr std::size_t kKept = 4;
  thread_local std::vector<std::shared_ptr<const TreeTimetable>> kept;  // the latest first
  const auto known = std::find_if(kept.begin(), kept.end(), [&](const auto& table) {
    return table->size() == n && table->packets() == packets;
  });
  if (known == kept.end()) {
    if (kept.size() == kKept) kept.pop_back();
    kept.insert(kept.begin(), std::make_shared<const TreeTimetable>(n, packets));
  } else {
    std::rotate(kept.begin(), known, known + 1);
  }
  return kept.front();
}

}  // namespace gearshift::collectives
