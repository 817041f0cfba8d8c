#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <thread>
#include <vector>

#include "transport/shm/ring.h"

namespace gearshift::transport::shm {
namespace {

constexpr std::size_t kCapacity = 64;

struct Rings {
  RingControl control{};
  std::vector<std::byte> data{kCapacity};
  RingWriter writer{&control, data.data(), kCapacity};
  RingReader reader{&control, data.data(), kCapacity};
};

std::vector<std::byte> numbers(std::size_t size, int first) {
  std::vector<std::byte> bytes(size);
  for (auto& byte : bytes) byte = static_cast<std::byte>(first++);
  return bytes;
}

TEST(ShmRing, ShowsBytesOnlyOncePublishedAndSpaceOnlyOnceReleased) {
  Rings r;
  EXPECT_EQ(r.writer.space(), kCapacity);
  r.writer.put(numbers(40, 0));
  EXPECT_EQ(r.reader.readable(), 0U);
  r.writer.publish();
  EXPECT_EQ(r.reader.readable(), 40U);
  EXPECT_EQ(r.writer.space(), 24U);
  std::vector<std::byte> got(40);
  r.reader.take(got);
  EXPECT_EQ(got, numbers(40, 0));
  EXPECT_EQ(r.writer.space(), 24U);
  r.reader.release();
  EXPECT_EQ(r.writer.space(), kCapacity);
}

TEST(ShmRing, WrapsAroundAtEveryOffset) {
  Rings r;
  for (int round = 0; round < 200; ++round) {
    const auto size = static_cast<std::size_t>(round % 65);
    const auto sent = numbers(size, round);
    r.writer.put(sent);
    r.writer.publish();
    std::vector<std::byte> got(size);
    ASSERT_EQ(r.reader.readable(), size);
    r.reader.take(got);
    r.reader.release();
    ASSERT_EQ(got, sent);
  }
}

TEST(ShmRing, DoesNotBelieveImpossiblePositions) {
  Rings r;
  r.control.produced.store(kCapacity + 1);
  EXPECT_EQ(r.reader.readable(), std::nullopt);
  r.control.produced.store(static_cast<std::uint64_t>(-1));
  EXPECT_EQ(r.reader.readable(), std::nullopt);
  r.control.consumed.store(1);
  EXPECT_EQ(r.writer.space(), std::nullopt) << "more was taken than was ever put";
  r.control.consumed.store(static_cast<std::uint64_t>(-1) - kCapacity);
  EXPECT_EQ(r.writer.space(), std::nullopt);
}

TEST(ShmRing, WishesAreTakenOnce) {
  Rings r;
  EXPECT_FALSE(r.writer.take_sleeper());
  r.reader.announce_sleep(true);
  EXPECT_TRUE(r.writer.take_sleeper());
  EXPECT_FALSE(r.writer.take_sleeper());
  r.writer.announce_wait();
  EXPECT_TRUE(r.reader.take_waiter());
  EXPECT_FALSE(r.reader.take_waiter());
}

TEST(ShmRing, CarriesAStreamBetweenTwoThreads) {
  Rings r;
  constexpr std::size_t kTotal = 100'000;
  const auto sent = numbers(kTotal, 0);
  std::vector<std::byte> got(kTotal);
  std::jthread producer([&] {
    for (std::size_t at = 0; at < kTotal;) {
      const std::size_t size = std::min({*r.writer.space(), std::size_t{17}, kTotal - at});
      r.writer.put(base::ConstBytes(sent).subspan(at, size));
      r.writer.publish();
      at += size;
      if (size == 0) std::this_thread::yield();
    }
  });
  for (std::size_t at = 0; at < kTotal;) {
    const std::size_t size = *r.reader.readable();
    r.reader.take(base::Bytes(got).subspan(at, size));
    r.reader.release();
    at += size;
    if (size == 0) std::this_thread::yield();
  }
  EXPECT_EQ(got, sent);
}

}  // namespace
}  // namespace gearshift::transport::shm
