#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace gearshift::sim {

/// `; did you mean "bandwidth"?` for the candidate that takes the fewest letters to change; "" when
/// none is near. Thread-safe.
std::string did_you_mean(std::string_view wrong, const std::vector<std::string>& candidates);

/// `"a", "b", "c"`.
std::string quoted_list(const std::vector<std::string>& words);

}  // namespace gearshift::sim
