#pragma once

#include <cstdint>
#include <memory>
#include <stop_token>
#include <string>

#include "gearshift/base/ids.h"
#include "gearshift/base/result.h"
#include "gearshift/base/scheduler.h"
#include "gearshift/transport/connection.h"
#include "gearshift/transport/router.h"

namespace gearshift::transport {

/// Who this process is and what it must prove to a peer (see handshake.h).
struct Identity {
  base::Rank rank;
  base::Generation generation{1};
  /// Secret shared by all processes of one job; never sent, only proved.
  std::string token;
};

/// A way to make connections. One instance per process and group; listens from creation on.
///
/// Thread-safety: all methods.
class Transport {
 public:
  virtual ~Transport() = default;
  virtual std::string name() const = 0;
  /// What peers need in order to connect; printable, published through the rendezvous store.
  virtual std::string address() const = 0;
  /// Whether a peer that published `peer_address` can be reached. Symmetric between two ranks.
  virtual bool reaches(const std::string& peer_address) const = 0;
  /// The highest preference among the transports that reach each other wins.
  virtual int preference() const = 0;

  /// Ends early, with kAborted, when `stop` is requested: within 100 ms.
  virtual base::Result<std::unique_ptr<Connection>> connect(base::Rank peer,
                                                            const std::string& peer_address,
                                                            base::TimePoint deadline,
                                                            const std::stop_token& stop) = 0;
  base::Result<std::unique_ptr<Connection>> connect(base::Rank peer,
                                                    const std::string& peer_address,
                                                    base::TimePoint deadline) {
    return connect(peer, peer_address, deadline, std::stop_token());
  }
  /// Waits for `peer` to connect to this process. Strangers, other generations and garbage are
  /// refused and logged meanwhile, and disturb nobody.
  virtual base::Result<std::unique_ptr<Connection>> accept(base::Rank peer,
                                                           base::TimePoint deadline) = 0;
};

}  // namespace gearshift::transport
