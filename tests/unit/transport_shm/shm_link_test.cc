#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <mutex>
#include <optional>
#include <vector>

#include "transport/shm/engine.h"
#include "transport/shm/frame.h"

namespace gearshift::transport::shm {
namespace {

using base::ErrorCode;
using base::Fd;

constexpr std::size_t kRingBytes = 4096;

/// A link whose peer is this test: it writes what no correct peer would.
class ShmLinkTest : public ::testing::Test {
 protected:
  void SetUp() override {
    int sockets[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets), 0);
    socket = Fd(sockets[1]);
    memory = *SharedRegion::create(link_region_bytes(kRingBytes));
    LinkParts parts;
    parts.peer = base::Rank(3);
    parts.socket = Fd(sockets[0]);
    parts.region = *SharedRegion::map(Fd(::dup(memory->fd())), memory->size());
    parts.ring_bytes = kRingBytes;
    parts.creator = true;
    router->on_lost([this](base::Rank rank, const base::Error& error) {
      std::lock_guard<base::Monitor> lock(*monitor);
      lost_rank = rank.value;
      ++losses;
      code = error.code;
      monitor->notify_all();
    });
    engine = *Engine::create(router);
    link = *engine->add(std::move(parts));
  }
  void TearDown() override { link->abort({ErrorCode::kAborted, "end of test"}); }

  /// The ring that leads to the link.
  RingControl& control() { return reinterpret_cast<RingControl*>(memory->view().data())[1]; }
  RingWriter& writer() {
    if (!writer_) {
      writer_.emplace(&control(), memory->view().data() + 2 * sizeof(RingControl) + kRingBytes,
                      kRingBytes);
    }
    return *writer_;
  }
  void ring_bell() { send_record(socket.get(), ControlRecord{}); }
  void write_frame(const FrameHeader& header) {
    writer().put(base::bytes_of(header));
    writer().publish();
    ring_bell();
  }
  void expect_loss(ErrorCode expected) {
    std::lock_guard<base::Monitor> lock(*monitor);
    while (losses == 0 && monitor->wait_until(soon())) {
    }
    EXPECT_EQ(losses, 1);
    EXPECT_EQ(lost_rank, 3);
    EXPECT_EQ(base::to_string(code), std::string(base::to_string(expected)));
    EXPECT_TRUE(link->broken());
  }
  base::TimePoint soon() const { return scheduler->after(std::chrono::seconds(60)); }

  std::unique_ptr<base::Scheduler> scheduler = base::make_os_scheduler();
  std::shared_ptr<Router> router = std::make_shared<Router>(*scheduler);
  std::unique_ptr<base::Monitor> monitor = scheduler->make_monitor();
  int lost_rank = -1;
  int losses = 0;
  ErrorCode code = ErrorCode::kIo;
  Fd socket;
  std::unique_ptr<SharedRegion> memory;
  std::optional<RingWriter> writer_;
  std::unique_ptr<Engine> engine;
  std::shared_ptr<Link> link;
};

TEST_F(ShmLinkTest, RefusesImpossibleReadPositions) {
  control().produced.store(kRingBytes + 1);
  ring_bell();
  expect_loss(ErrorCode::kProtocol);
}

TEST_F(ShmLinkTest, RefusesImpossibleWritePositions) {
  auto& own = reinterpret_cast<RingControl*>(memory->view().data())[0];
  own.consumed.store(5);
  const std::vector<std::byte> body(100'000);
  EXPECT_FALSE(link->send(Tag(1, 1, 0), {}, body).wait(soon()).ok());
  expect_loss(ErrorCode::kProtocol);
}

TEST_F(ShmLinkTest, RefusesFramesWithoutHeader) {
  FrameHeader header;
  header.magic = 0;
  write_frame(header);
  expect_loss(ErrorCode::kProtocol);
}

TEST_F(ShmLinkTest, RefusesOversizedHeads) {
  FrameHeader header;
  header.head_bytes = kMaxHeadBytes + 1;
  write_frame(header);
  expect_loss(ErrorCode::kProtocol);
}

TEST_F(ShmLinkTest, RefusesOversizedBodies) {
  FrameHeader header;
  header.body_bytes = kMaxBodyBytes + 1;
  write_frame(header);
  expect_loss(ErrorCode::kProtocol);
}

TEST_F(ShmLinkTest, RefusesGarbageOnTheSocket) {
  ASSERT_EQ(::send(socket.get(), "garbage", 7, MSG_NOSIGNAL), 7);
  expect_loss(ErrorCode::kProtocol);
}

TEST_F(ShmLinkTest, RefusesUnknownRecords) {
  ControlRecord record;
  record.kind = static_cast<ControlRecord::Kind>(99);
  send_record(socket.get(), record);
  expect_loss(ErrorCode::kProtocol);
}

TEST_F(ShmLinkTest, RefusesRegionsWithoutMemory) {
  ControlRecord record;
  record.kind = ControlRecord::Kind::kRegion;
  record.size = 4096;
  send_record(socket.get(), record);
  expect_loss(ErrorCode::kProtocol);
}

/// As it comes with limits on memory. The peer has done nothing wrong.
TEST_F(ShmLinkTest, ARegionThatCannotBeMappedIsNoFaultOfThePeer) {
  constexpr std::uint64_t kTooLarge = std::uint64_t{1} << 60;
  const Fd file(::memfd_create("huge", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(::ftruncate(file.get(), static_cast<off_t>(kTooLarge)), 0);
  ASSERT_EQ(::fcntl(file.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
  ControlRecord record;
  record.kind = ControlRecord::Kind::kRegion;
  record.size = kTooLarge;
  send_record(socket.get(), record, file.get());
  expect_loss(ErrorCode::kIo);
  EXPECT_EQ(link->accept_region(0, soon()).error().culprit, -1);
}

TEST_F(ShmLinkTest, RefusesARegionOfferedTwice) {
  auto region = SharedRegion::create(4096);
  ControlRecord record;
  record.kind = ControlRecord::Kind::kRegion;
  record.size = 4096;
  send_record(socket.get(), record, (*region)->fd());
  send_record(socket.get(), record, (*region)->fd());
  expect_loss(ErrorCode::kProtocol);
}

TEST_F(ShmLinkTest, RefusesLentBodiesInUnknownMemory) {
  FrameHeader header;
  header.kind = FrameHeader::Kind::kLent;
  header.tag = Tag(kServerService, 1, 0).value;
  header.body_bytes = 4096;
  const LentBody place{.region = 5, .offset = 0, .ticket = 1};
  writer().put(base::bytes_of(header));
  writer().put(base::bytes_of(place));
  writer().publish();
  ring_bell();
  expect_loss(ErrorCode::kProtocol);
}

TEST_F(ShmLinkTest, RefusesARegionLentTwice) {
  auto region = SharedRegion::create(4096);
  ControlRecord record;
  record.kind = ControlRecord::Kind::kLend;
  record.size = 4096;
  send_record(socket.get(), record, (*region)->fd());
  send_record(socket.get(), record, (*region)->fd());
  expect_loss(ErrorCode::kProtocol);
}

TEST_F(ShmLinkTest, ReturnsOfWhatWasNeverLentDoNothing) {
  FrameHeader header;
  header.kind = FrameHeader::Kind::kReturned;
  header.tag = 77;
  write_frame(header);
  header.kind = FrameHeader::Kind::kReclaimed;
  write_frame(header);
  header = {};
  header.tag = Tag(kServerService, 1, 0).value;
  write_frame(header);
  ASSERT_TRUE(router->mailbox(kServerService)->pop(soon()).ok());
  EXPECT_FALSE(link->broken());
}

TEST_F(ShmLinkTest, WhatADeadPeerWroteStillArrives) {
  const int value = 42;
  FrameHeader header;
  header.tag = Tag(1, 1, 0).value;
  header.body_bytes = sizeof value;
  writer().put(base::bytes_of(header));
  writer().put(base::bytes_of(value));
  header.tag = Tag(1, 2, 0).value;
  writer().put(base::bytes_of(header));  // and half a message
  writer().publish();
  int first = 0;
  int second = 0;
  Request half = link->recv(Tag(1, 2, 0), base::writable_bytes_of(second));
  socket.reset();
  expect_loss(ErrorCode::kPeerLost);
  EXPECT_TRUE(link->recv(Tag(1, 1, 0), base::writable_bytes_of(first)).wait(soon()).ok());
  EXPECT_EQ(first, value);
  const auto status = half.wait(soon());
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kPeerLost);
  EXPECT_EQ(status.error().culprit, 3);
}

TEST_F(ShmLinkTest, AGoodbyeIsNoLoss) {
  FrameHeader header;
  header.kind = FrameHeader::Kind::kGoodbye;
  writer().put(base::bytes_of(header));
  writer().publish();
  socket.reset();
  int never = 0;
  const auto status = link->recv(Tag(1, 1, 0), base::writable_bytes_of(never)).wait(soon());
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kClosed);
  std::lock_guard<base::Monitor> lock(*monitor);
  monitor->wait_until(scheduler->after(std::chrono::milliseconds(20)));
  EXPECT_EQ(losses, 0);
}

TEST_F(ShmLinkTest, APeerThatLeavesOnAGoodbyeIsNoLoss) {
  const std::vector<std::byte> body(kRingBytes);  // fills the ring: the good-bye has to wait
  (void)link->send(Tag(1, 1, 0), {}, body);
  auto peer = scheduler->spawn("peer", [&] {
    auto* outgoing = reinterpret_cast<RingControl*>(memory->view().data());
    const std::uint64_t all = body.size() + 2 * sizeof(FrameHeader);
    while (outgoing->produced.load() < all) {
      outgoing->consumed.store(outgoing->produced.load());
      ring_bell();
      scheduler->sleep_for(std::chrono::milliseconds(1));
    }
    ::shutdown(socket.get(), SHUT_RDWR);
  });
  link->close(soon());
  peer->join();
  const Request late = link->send(Tag(1, 2, 0), {}, body);
  EXPECT_EQ(late.wait(soon()).error().code, ErrorCode::kClosed);
  EXPECT_EQ(losses, 0);
}

TEST_F(ShmLinkTest, ASendThatNobodyTakesTimesOut) {
  const std::vector<std::byte> body(100'000);
  Request first = link->send(Tag(1, 1, 0), {}, body);
  Request second = link->send(Tag(1, 2, 0), {}, body);
  const auto shortly = [&] { return scheduler->after(std::chrono::milliseconds(20)); };
  auto status = second.wait(shortly());
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kTimeout);
  EXPECT_FALSE(link->broken()) << "nothing of it had left: it was taken back";
  status = first.wait(shortly());
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kTimeout);
  EXPECT_TRUE(link->broken()) << "half of it had left";
}

TEST_F(ShmLinkTest, ASendThatAnotherSendCompletesIsWoken) {
  const std::vector<std::byte> body(kRingBytes + 100);
  Request first = link->send(Tag(1, 1, 0), {}, body);
  ASSERT_FALSE(first.done());
  const base::TimePoint deadline = scheduler->after(std::chrono::seconds(60));
  auto waiter = scheduler->spawn("waiter", [&] {
    const base::Status sent = first.wait(deadline);
    EXPECT_TRUE(sent.ok()) << sent.error().to_string();
  });
  // Long enough for the waiter to have gone to sleep, and the engine, too.
  scheduler->sleep_for(std::chrono::milliseconds(50));
  auto* outgoing = reinterpret_cast<RingControl*>(memory->view().data());
  outgoing->consumed.store(outgoing->produced.load());  // without a bell: nobody looks
  const std::vector<std::byte> small(8);
  Request second = link->send(Tag(1, 2, 0), {}, small);
  waiter->join();
  EXPECT_TRUE(second.wait(deadline).ok());
  EXPECT_LT(scheduler->now(), deadline) << "the waiter slept until its deadline";
}

}  // namespace
}  // namespace gearshift::transport::shm
