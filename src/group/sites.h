#pragma once

#include <vector>

namespace gearshift::group {

/// Which of n hosts are near each other, by labels 0, 1, … in the order of the first hosts. Empty:
/// no sites can be told apart, or every host would be one of its own.
///
/// `costs` is n × n, row by row, symmetric: the time of a typical message. The two groups of hosts
/// that are nearest are joined, from single hosts on, until all are one; the distance of two groups
/// is the geometric mean of the costs between their hosts. Where the distances at which groups were
/// joined grow most from one to the next, and threefold at least, it is cut: what was joined before
/// is a site.
///
/// Means, since links were measured while others were in use: of the links between two sites some
/// seem several times slower, and one now and then faster, than they are. Threefold, since noise
/// must not make sites. O(n²); deterministic.
/// Source: average linkage, R. Sokal, C. Michener, Univ. Kansas Sci. Bull. 38, 1958; by chains of
/// nearest neighbours, F. Murtagh, "A survey of recent advances in hierarchical clustering
/// algorithms", Comput. J. 26(4), 1983.
std::vector<int> find_sites(const std::vector<double>& costs, int n);

}  // namespace gearshift::group
