#include <span>
#include <string_view>

#include "gearshift/kernels/reduce.h"
#include "testing.h"

namespace gearshift::kernels::testing {
namespace {

std::uint64_t hash_text(std::string_view text) {
  return hash64(base::bytes_of(std::span<const char>(text)));
}

TEST(Hash64, MatchesPublishedValues) {
  EXPECT_EQ(hash_text(""), 0xEF46DB3751D8E999u);
  EXPECT_EQ(hash_text("a"), 0xD24EC4F1A98C6E5Bu);
  EXPECT_EQ(hash_text("abc"), 0x44BC2CF5AD770999u);
  EXPECT_EQ(hash_text("Nobody inspects the spammish repetition"), 0xFBCEA83C8A378BF1u);
}

// The byte sequence of xxHash's own self-test, in the lengths that take different paths.
TEST(Hash64, MatchesTheReferenceSelfTest) {
  constexpr std::size_t kLongest = 222;
  std::vector<std::byte> data(kLongest);
  std::uint64_t generator = 2654435761u;
  for (std::byte& byte : data) {
    byte = static_cast<std::byte>(generator >> 56);
    generator *= 11400714785074694797u;
  }
  const auto hash = [&](std::size_t size) { return hash64(base::ConstBytes(data).first(size)); };
  EXPECT_EQ(hash(1), 0xE934A84ADB052768u);
  EXPECT_EQ(hash(4), 0x9136A0DCA57457EEu);
  EXPECT_EQ(hash(14), 0x8282DCC4994E35C8u);
  EXPECT_EQ(hash(222), 0xB641AE8CB691C174u);
}

TEST(Hash64, DependsOnContentsNotOnAlignment) {
  std::mt19937_64 random(3);
  for (const std::size_t count : kCounts) {
    Slice aligned(base::DType::kU8, count), shifted(base::DType::kU8, count, 3);
    aligned.fill_bits(random);
    if (count > 0) std::memcpy(shifted.view().data(), aligned.view().data(), count);
    EXPECT_EQ(hash64(aligned.view()), hash64(shifted.view()));
    if (count == 0) continue;
    shifted.set(count - 1, static_cast<std::uint8_t>(shifted.get<std::uint8_t>(count - 1) ^ 1u));
    EXPECT_NE(hash64(aligned.view()), hash64(shifted.view()));
  }
}

TEST(Hash64, OfPhantomReadsNothing) {
  EXPECT_EQ(hash64(base::ConstBytes(static_cast<std::byte*>(nullptr), 100)), 0u);
}

}  // namespace
}  // namespace gearshift::kernels::testing
