#include "collectives/widen.h"

#include <cstdint>
#include <cstring>

namespace gearshift::collectives {
namespace {

/// Views may be unaligned, hence the copies; compilers turn them into plain vector loads.
template <typename From, typename Into>
void convert(const std::byte* from, std::byte* into, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    From value;
    std::memcpy(&value, from + i * sizeof(From), sizeof(From));
    const auto converted = static_cast<Into>(value);
    std::memcpy(into + i * sizeof(Into), &converted, sizeof(Into));
  }
}

}  // namespace

base::Buffer widen(base::DType dtype, base::ConstBytes from) {
  const std::size_t count = from.size() / base::size_of(dtype);
  const std::size_t bytes = count * sizeof(std::int64_t);
  if (base::is_phantom(from)) return base::Buffer::phantom(bytes);
  base::Buffer wide(bytes);
  if (dtype == base::DType::kI8) {
    convert<std::int8_t, std::int64_t>(from.data(), wide.data(), count);
  } else if (dtype == base::DType::kU8) {
    convert<std::uint8_t, std::int64_t>(from.data(), wide.data(), count);
  } else {
    convert<std::int32_t, std::int64_t>(from.data(), wide.data(), count);
  }
  return wide;
}

void narrow(base::DType dtype, base::ConstBytes from, base::Bytes into) {
  if (base::is_phantom(into) || base::is_phantom(from)) return;
  const std::size_t count = into.size() / base::size_of(dtype);
  if (dtype == base::DType::kI8) {
    convert<std::int64_t, std::int8_t>(from.data(), into.data(), count);
  } else if (dtype == base::DType::kU8) {
    convert<std::int64_t, std::uint8_t>(from.data(), into.data(), count);
  } else {
    convert<std::int64_t, std::int32_t>(from.data(), into.data(), count);
  }
}

}  // namespace gearshift::collectives
