#pragma once

#include <vector>

namespace gearshift::group {

/// The hosts a ring is exact for; beyond, it is a good one.
inline constexpr int kExactRing = 10;

/// The order in which a ring visits n hosts, from host 0 on, so that its slowest link is as fast as
/// possible, and among such rings the sum over all links is the smallest. In a pipelined ring all
/// links are busy at once: the slowest sets the pace, the sum is what a segment needs to come
/// round.
///
/// `costs` is n × n, row by row, symmetric: the time of a typical message. When the costs differ by
/// no more than a fifth, the order is 0 … n-1: a measurement's noise must not move ranks about.
///
/// Exact up to kExactRing hosts: Held–Karp twice, first for the bottleneck, then for the sum over
/// the links that are no slower; O(2ⁿ n²). Beyond: the best of several nearest-neighbour tours,
/// improved by 2-opt. Deterministic.
/// Source: M. Held, R. Karp, "A dynamic programming approach to sequencing problems", J. SIAM
/// 10(1), 1962; G. Croes, "A method for solving traveling-salesman problems", Oper. Res. 6(6),
/// 1958.
std::vector<int> ring_order(const std::vector<double>& costs, int n);

/// What a ring is judged by; smaller is better.
struct RingCost {
  double slowest = 0;
  double sum = 0;
  auto operator<=>(const RingCost&) const = default;
};
RingCost ring_cost(const std::vector<double>& costs, const std::vector<int>& ring);

}  // namespace gearshift::group
