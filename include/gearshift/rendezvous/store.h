#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "gearshift/base/result.h"
#include "gearshift/base/scheduler.h"

namespace gearshift::rendezvous {

/// A small key–value store where the processes of one job find each other. Values are at most
/// 1 MiB, keys 1 KiB. Thread-safety: all methods.
class Store {
 public:
  virtual ~Store() = default;
  /// Sets a key; the last writer wins.
  virtual base::Status set(const std::string& key, const std::string& value) = 0;
  /// Waits until the key exists. kTimeout names the key.
  virtual base::Result<std::string> get(const std::string& key, base::TimePoint deadline) = 0;
  /// Adds to a counter (0 when absent) and returns the sum.
  virtual base::Result<std::int64_t> add(const std::string& key, std::int64_t amount) = 0;
  /// Announces this process under a name. It counts as gone when its store object is destroyed or
  /// the process ends, however it does. (A host that vanishes from the network is not noticed, nor
  /// is anybody where the file system of a file store has no locks.)
  virtual base::Status attend(const std::string& name) = 0;
  /// A name that was announced and is gone; "" when there is none. Costs one file or message for
  /// each name, or one message.
  virtual base::Result<std::string> absentee() = 0;
  /// "tcp://10.0.0.1:4711", "file:///run/…", "memory": for messages and for other processes.
  virtual std::string address() const = 0;
};

}  // namespace gearshift::rendezvous
