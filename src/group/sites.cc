#include "group/sites.h"

#include <algorithm>
#include <cstddef>
#include <limits>

namespace gearshift::group {
namespace {

/// How much slower links between sites are, at least.
constexpr double kFarther = 3;

struct Edge {
  std::size_t from = 0;
  std::size_t to = 0;
  double cost = 0;
};

/// Of a minimum spanning tree, in the order in which Prim's algorithm adds them: `from` is in the
/// tree already.
std::vector<Edge> spanning_tree(const std::vector<double>& costs, std::size_t n) {
  std::vector<Edge> nearest(n);
  std::vector<bool> in_tree(n, false);
  for (Edge& edge : nearest) edge.cost = std::numeric_limits<double>::infinity();
  std::vector<Edge> tree;
  std::size_t latest = 0;
  in_tree[0] = true;
  while (tree.size() + 1 < n) {
    std::size_t next = n;
    for (std::size_t host = 0; host < n; ++host) {
      if (in_tree[host]) continue;
      const double cost = costs[latest * n + host];
      if (cost < nearest[host].cost) nearest[host] = {latest, host, cost};
      if (next == n || nearest[host].cost < nearest[next].cost) next = host;
    }
    if (nearest[next].to != next) nearest[next] = {latest, next, costs[latest * n + next]};
    tree.push_back(nearest[next]);
    in_tree[next] = true;
    latest = next;
  }
  return tree;
}

/// The greatest cost within a site; infinite: there is no gap that is wide enough.
double longest_within(const std::vector<Edge>& tree) {
  std::vector<double> costs;
  for (const Edge& edge : tree) costs.push_back(edge.cost);
  std::sort(costs.begin(), costs.end());
  double widest = kFarther;
  double longest = std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i + 1 < costs.size(); ++i) {
    if (costs[i + 1] < widest * costs[i]) continue;
    widest = costs[i + 1] / costs[i];
    longest = costs[i];
  }
  return longest;
}

bool all_nearer_within(const std::vector<double>& costs, const std::vector<int>& site_of) {
  const std::size_t n = site_of.size();
  double within = 0;
  double between = std::numeric_limits<double>::infinity();
  for (std::size_t a = 0; a < n; ++a) {
    for (std::size_t b = 0; b < a; ++b) {
      const double cost = costs[a * n + b];
      if (site_of[a] == site_of[b]) {
        within = std::max(within, cost);
      } else {
        between = std::min(between, cost);
      }
    }
  }
  return within < between;
}

}  // namespace

std::vector<int> find_sites(const std::vector<double>& costs, int n) {
  if (n < 3) return {};
  const auto hosts = static_cast<std::size_t>(n);
  const std::vector<Edge> tree = spanning_tree(costs, hosts);
  const double longest = longest_within(tree);
  if (longest == std::numeric_limits<double>::infinity()) return {};
  std::vector<std::size_t> first(hosts);  // a host of the same site
  for (const Edge& edge : tree) first[edge.to] = edge.cost <= longest ? first[edge.from] : edge.to;
  std::vector<int> site_of(hosts, -1);
  std::vector<int> label(hosts, -1);
  int sites = 0;
  for (std::size_t host = 0; host < hosts; ++host) {
    int& mine = label[first[host]];
    if (mine < 0) mine = sites++;
    site_of[host] = mine;
  }
  return all_nearer_within(costs, site_of) ? site_of : std::vector<int>{};
}

}  // namespace gearshift::group
