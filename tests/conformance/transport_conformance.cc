#include "conformance/transport_conformance.h"

#include <algorithm>

namespace gearshift::testing {

std::vector<std::byte> pattern(std::size_t size, unsigned seed) {
  std::vector<std::byte> bytes(size);
  std::uint32_t state = seed * 2654435761U + 1;
  for (auto& byte : bytes) {
    state = state * 1664525U + 1013904223U;
    byte = static_cast<std::byte>(state >> 24);
  }
  return bytes;
}

std::ptrdiff_t first_difference(base::ConstBytes x, base::ConstBytes y) {
  const auto [at, _] = std::mismatch(x.begin(), x.end(), y.begin(), y.end());
  return at == x.end() && x.size() == y.size() ? -1 : at - x.begin();
}

}  // namespace gearshift::testing
