#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <stop_token>
#include <string>
#include <utility>

#include "gearshift/base/fd.h"
#include "gearshift/base/result.h"
#include "gearshift/base/scheduler.h"
#include "gearshift/transport/handshake.h"

namespace gearshift::transport::shm {

/// What travels over a link's Unix socket besides the handshake. The sockets keep packet borders,
/// so a record arrives whole or not at all, and a passed descriptor stays with its record.
struct ControlRecord {
  enum class Kind : std::uint32_t {
    kBell = 1,    ///< look at the rings: there are new bytes, or new space
    kSetup = 2,   ///< carries the memory of the rings; `size` bytes in each direction
    kReady = 3,   ///< the rings are mapped
    kRegion = 4,  ///< carries the shared region `id` of `size` bytes
    kAbort = 5,   ///< the sender breaks the link; `text` says why
    kLend = 6,    ///< carries the region `id` of `size` bytes, in which bodies may be lent
  };
  static constexpr std::size_t kTextBytes = 232;

  Kind kind = Kind::kBell;
  std::uint32_t reserved = 0;
  std::uint64_t id = 0;
  std::uint64_t size = 0;
  char text[kTextBytes] = {};

  void set_text(const std::string& value);
  std::string get_text() const;
};
static_assert(sizeof(ControlRecord) == 256);

enum class SendOutcome { kSent, kFull, kBroken };

/// Sends one record, with a descriptor unless `fd` is -1. Never waits.
SendOutcome send_record(int socket, const ControlRecord& record, int fd = -1);

/// What reading a record gave. `record` is empty when nothing is there (or the peer is gone).
struct Received {
  std::optional<ControlRecord> record;
  base::Fd fd;
  bool ended = false;    ///< the peer closed the socket, or died
  bool garbage = false;  ///< no correct peer sends this
  bool lost_fd = false;  ///< a descriptor came, for which this process has no number left
};
/// Reads one record without waiting.
Received receive_record(int socket);
/// What to say when a descriptor was lost, or could not be made (kIo).
base::Error no_descriptors();
/// Waits for a record of the given kind. Errors: kTimeout, kPeerLost, kProtocol; kMismatch when the
/// peer refuses; kIo when this process is out of descriptors; kAborted once `stop` is requested.
base::Result<Received> await_record(const base::Scheduler& scheduler, int socket,
                                    ControlRecord::Kind kind, base::TimePoint deadline,
                                    const std::stop_token& stop = {});

/// The handshake's byte stream over a packet socket. Does not own the socket.
class PacketStream final : public ByteStream {
 public:
  PacketStream(const base::Scheduler& scheduler, int socket, std::stop_token stop = {})
      : scheduler_(scheduler), socket_(socket), stop_(std::move(stop)) {}
  base::Status read_exact(base::Bytes into, base::TimePoint deadline) override;
  base::Status write_all(base::ConstBytes from, base::TimePoint deadline) override;

 private:
  static constexpr std::size_t kPacketBytes = 4096;

  const base::Scheduler& scheduler_;
  int socket_;
  const std::stop_token stop_;
  std::byte packet_[kPacketBytes];
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
};

}  // namespace gearshift::transport::shm
