// XXH64, written from the algorithm's description:
// https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md

#include <array>
#include <bit>
#include <cstring>

#include "gearshift/kernels/reduce.h"
#include "kernels/views.h"

namespace gearshift::kernels {
namespace {

constexpr std::uint64_t kPrime1 = 0x9E3779B185EBCA87;
constexpr std::uint64_t kPrime2 = 0xC2B2AE3D27D4EB4F;
constexpr std::uint64_t kPrime3 = 0x165667B19E3779F9;
constexpr std::uint64_t kPrime4 = 0x85EBCA77C2B2AE63;
constexpr std::uint64_t kPrime5 = 0x27D4EB2F165667C5;
constexpr std::size_t kStripe = 32;

template <typename T>
std::uint64_t read_little_endian(const std::byte* from) {
  static_assert(std::endian::native == std::endian::little);
  T value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

std::uint64_t round(std::uint64_t accumulator, std::uint64_t lane) {
  return std::rotl(accumulator + lane * kPrime2, 31) * kPrime1;
}

// Consumes whole stripes from `data`.
std::uint64_t hash_stripes(base::ConstBytes& data) {
  std::array<std::uint64_t, 4> lanes{kPrime1 + kPrime2, kPrime2, 0, 0 - kPrime1};
  for (; data.size() >= kStripe; data = data.subspan(kStripe)) {
    for (std::size_t i = 0; i < lanes.size(); ++i) {
      lanes[i] = round(lanes[i], read_little_endian<std::uint64_t>(data.data() + 8 * i));
    }
  }
  std::uint64_t hash = std::rotl(lanes[0], 1) + std::rotl(lanes[1], 7) + std::rotl(lanes[2], 12) +
                       std::rotl(lanes[3], 18);
  for (const std::uint64_t lane : lanes) hash = (hash ^ round(0, lane)) * kPrime1 + kPrime4;
  return hash;
}

std::uint64_t hash_rest(std::uint64_t hash, base::ConstBytes data) {
  for (; data.size() >= 8; data = data.subspan(8)) {
    hash ^= round(0, read_little_endian<std::uint64_t>(data.data()));
    hash = std::rotl(hash, 27) * kPrime1 + kPrime4;
  }
  if (data.size() >= 4) {
    hash ^= read_little_endian<std::uint32_t>(data.data()) * kPrime1;
    hash = std::rotl(hash, 23) * kPrime2 + kPrime3;
    data = data.subspan(4);
  }
  for (const std::byte byte : data) {
    hash ^= std::to_integer<std::uint64_t>(byte) * kPrime5;
    hash = std::rotl(hash, 11) * kPrime1;
  }
  return hash;
}

std::uint64_t avalanche(std::uint64_t hash) {
  hash = (hash ^ (hash >> 33)) * kPrime2;
  hash = (hash ^ (hash >> 29)) * kPrime3;
  return hash ^ (hash >> 32);
}

}  // namespace

std::uint64_t hash64(base::ConstBytes data) {
  if (base::is_phantom(data)) return 0;
  const std::uint64_t size = data.size();
  const std::uint64_t start = size >= kStripe ? hash_stripes(data) : kPrime5;
  return avalanche(hash_rest(start + size, data));
}

}  // namespace gearshift::kernels
