#include "transport/tcp/setup.h"

#include <random>

namespace gearshift::transport::tcp {

using base::Error;
using base::ErrorCode;
using base::Fd;
using base::Result;
using base::TimePoint;

namespace {

/// Tells two links of one rank apart; the token is what proves anything.
std::uint64_t random_link_number() {
  std::random_device device;
  return (std::uint64_t{device()} << 32) | device();
}

/// On a socket that is connected.
base::Status prove_stream(SocketStream& stream, const Identity& identity, const Hello& mine,
                          base::Rank peer, std::uint32_t streams, TimePoint deadline) {
  GEARSHIFT_ASSIGN_OR_RETURN(const Hello theirs,
                             handshake_as_client(stream, mine, identity.token, deadline));
  if (theirs.rank != peer) {
    return Error(ErrorCode::kMismatch,
                 "rank " + std::to_string(theirs.rank.value) + " answers there", peer.value);
  }
  const LinkSetup setup{streams};
  return stream.write_all(base::bytes_of(setup), deadline);
}

}  // namespace

std::string explain(Verdict verdict) {
  switch (verdict) {
    case Verdict::kAccepted:
      return {};
    case Verdict::kDuplicate:
      return "a process of this rank is connected already";
    case Verdict::kSameRank:
      return "both processes have the same rank";
    case Verdict::kInvalid:
      return "the streams of the link do not fit together";
  }
  return "unknown answer " + std::to_string(static_cast<std::uint32_t>(verdict));
}

Result<std::vector<Fd>> open_link(const base::Scheduler& scheduler, const Identity& identity,
                                  base::Rank peer, const std::string& address, int streams,
                                  TimePoint deadline, std::uint32_t zone,
                                  const std::stop_token& stop) {
  const std::string where =
      "cannot connect to rank " + std::to_string(peer.value) + " at " + address;
  Hello mine{.purpose = kPurposeLink,
             .generation = identity.generation,
             .rank = identity.rank,
             .link = random_link_number()};
  std::vector<Fd> sockets;
  for (int i = 0; i < streams; ++i) {
    mine.stream = static_cast<std::uint32_t>(i);
    auto fd = connect_to(scheduler, address, deadline, {identity.rank.value, zone, stop});
    if (!fd) return fd.error().within(where);
    SocketStream stream(scheduler, *fd, stop);
    const base::Status proved =
        prove_stream(stream, identity, mine, peer, static_cast<std::uint32_t>(streams), deadline);
    if (!proved) return proved.error().within(where);
    sockets.push_back(*std::move(fd));
  }
  for (const Fd& fd : sockets) {
    Verdict verdict{};
    const auto answered =
        SocketStream(scheduler, fd, stop).read_exact(base::writable_bytes_of(verdict), deadline);
    if (!answered) return answered.error().within(where);
    if (verdict != Verdict::kAccepted) {
      return Error(ErrorCode::kMismatch, explain(verdict), peer.value).within(where);
    }
  }
  return sockets;
}

}  // namespace gearshift::transport::tcp
