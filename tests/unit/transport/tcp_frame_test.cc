#include <gtest/gtest.h>

#include "transport/tcp/frame.h"
#include "transport/tcp/socket.h"

namespace gearshift::transport::tcp {
namespace {

Frame chunk(std::uint64_t body, std::uint32_t size, std::uint32_t index) {
  Frame frame;
  frame.kind = FrameKind::kChunk;
  frame.body_bytes = body;
  frame.chunk_bytes = size;
  frame.chunk = index;
  return frame;
}

TEST(Frame, BoundsEverythingBeforeItIsUsed) {
  EXPECT_TRUE(check(Frame{}).ok());
  Frame frame;
  frame.magic = 1;
  EXPECT_FALSE(check(frame).ok());
  frame = {};
  frame.head_bytes = kMaxHeadBytes + 1;
  EXPECT_FALSE(check(frame).ok());
  frame = {};
  frame.body_bytes = kMaxBodyBytes + 1;
  EXPECT_FALSE(check(frame).ok());
  frame = {};
  frame.kind = static_cast<FrameKind>(77);
  EXPECT_FALSE(check(frame).ok());
  frame = {};
  frame.kind = FrameKind::kBye;
  EXPECT_TRUE(check(frame).ok());
  frame.body_bytes = 1;
  EXPECT_FALSE(check(frame).ok());
}

TEST(Frame, ChunksMustFitTheirBody) {
  EXPECT_TRUE(check(chunk(10, 4, 2)).ok());
  EXPECT_FALSE(check(chunk(10, 4, 3)).ok());
  EXPECT_FALSE(check(chunk(10, 0, 0)).ok());
  EXPECT_FALSE(check(chunk(0, 4, 0)).ok());
  EXPECT_FALSE(check(chunk(kMaxBodyBytes, 1, 0)).ok()) << "too many to keep count of";
  Frame second_head = chunk(10, 4, 1);
  second_head.head_bytes = 1;
  EXPECT_FALSE(check(second_head).ok());
}

TEST(Frame, ChunksCoverTheBodyExactly) {
  for (std::uint64_t body : {1U, 9U, 10U, 12U}) {
    std::uint64_t covered = 0;
    for (std::uint32_t i = 0; i < chunk(body, 4, 0).chunk_count(); ++i) {
      EXPECT_EQ(chunk(body, 4, i).part_offset(), covered);
      covered += chunk(body, 4, i).part_bytes();
    }
    EXPECT_EQ(covered, body);
  }
}

TEST(Address, ParsesHostsAndPorts) {
  for (const char* good : {"tcp://127.0.0.1:80", "tcp://[::1]:80", "tcp://node-7.example:65535"}) {
    EXPECT_TRUE(parse_address(good).ok()) << good;
  }
  EXPECT_EQ(parse_address("tcp://[::1]:80")->host, "::1");
  for (const char* bad : {"", "tcp://", "tcp://host", "tcp://:80", "tcp://host:0", "tcp://host:x",
                          "tcp://host:70000", "udp://host:80", "tcp://::1:80", "tcp://host:80 "}) {
    EXPECT_FALSE(parse_address(bad).ok()) << bad;
  }
}

}  // namespace
}  // namespace gearshift::transport::tcp
