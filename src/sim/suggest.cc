#include "sim/suggest.h"

#include <algorithm>
#include <numeric>

namespace gearshift::sim {
namespace {

/// Letters to insert, delete or replace (Levenshtein).
std::size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({replaced, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row.back();
}

}  // namespace

std::string did_you_mean(std::string_view wrong, const std::vector<std::string>& candidates) {
  std::size_t least = std::max<std::size_t>(2, wrong.size() / 3) + 1;
  const std::string* nearest = nullptr;
  for (const std::string& candidate : candidates) {
    // Fewer changes than letters: else any two short words are alike.
    const std::size_t changes = distance(wrong, candidate);
    if (changes < std::min(least, candidate.size())) {
      least = changes;
      nearest = &candidate;
    }
  }
  return nearest == nullptr ? std::string() : "; did you mean \"" + *nearest + "\"?";
}

std::string quoted_list(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "\"" : ", \"") + word + "\"";
  return text;
}

}  // namespace gearshift::sim
