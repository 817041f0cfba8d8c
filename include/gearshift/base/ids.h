#pragma once

#include <compare>
#include <cstdint>
#include <functional>

namespace gearshift::base {

/// An integer that cannot be swapped with another kind of integer by mistake.
template <typename Kind, typename Int>
struct StrongInt {
  Int value{};

  constexpr StrongInt() = default;
  constexpr explicit StrongInt(Int v) : value(v) {}
  constexpr auto operator<=>(const StrongInt&) const = default;
  constexpr StrongInt& operator++() {
    ++value;
    return *this;
  }
};

/// Position of a process in a group, 0 … size-1.
using Rank = StrongInt<struct RankKind, int>;
/// Number of the group's incarnation; bumped at each membership change.
using Generation = StrongInt<struct GenerationKind, std::uint32_t>;
/// Number of an optimizer step, 0 before the first.
using Step = StrongInt<struct StepKind, std::int64_t>;

}  // namespace gearshift::base

template <typename Kind, typename Int>
struct std::hash<gearshift::base::StrongInt<Kind, Int>> {
  std::size_t operator()(gearshift::base::StrongInt<Kind, Int> id) const noexcept {
    return std::hash<Int>{}(id.value);
  }
};
