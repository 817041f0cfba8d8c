#pragma once

#include <vector>

namespace gearshift::group {

/// Which of n hosts are near each other, by labels 0, 1, … in the order of the first hosts. Empty:
/// no sites can be told apart, or every host would be one of its own.
///
/// `costs` is n × n, row by row, symmetric: the time of a typical message. Hosts are joined by the
/// fastest links that connect all of them (a minimum spanning tree). Where the costs of these, in
/// ascending order, grow most from one to the next, and threefold at least, the tree is cut: what
/// hangs together by the faster ones is a site. Every link within a site must be faster than every
/// link between sites.
///
/// Threefold, since a measurement's noise, or two transfers that met on a link while they were
/// measured, must not make sites. O(n²); deterministic.
/// Source: single-linkage clustering by a minimum spanning tree, J. Gower, G. Ross, "Minimum
/// spanning trees and single linkage cluster analysis", J. R. Stat. Soc. C 18(1), 1969; the tree:
/// R. Prim, Bell Syst. Tech. J. 36(6), 1957.
std::vector<int> find_sites(const std::vector<double>& costs, int n);

}  // namespace gearshift::group
