#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "gearshift/base/bytes.h"
#include "gearshift/transport/connection.h"

namespace gearshift::ps {

using SharedBuffer = std::shared_ptr<base::Buffer>;

/// Sends that are under way, with the memory that they read. Not thread-safe.
class Outbox {
 public:
  /// Of a shard of so many slices.
  explicit Outbox(std::size_t slices = 0) : slices_(slices) {}

  /// A failed send is no news here: the peer is lost, and membership says so.
  void send(transport::Connection& to, transport::Tag tag, SharedBuffer body);
  /// The same with a slice's parameters.
  transport::Request send_slice(transport::Connection& to, transport::Tag tag, std::size_t slice,
                                SharedBuffer body);
  /// Lets go of what has left.
  void reap();
  /// Of that slice alone: with many workers and slices, the others are many.
  void reap(std::size_t slice);
  /// Waits for everything; what has not left by `deadline` is withdrawn.
  void drain(base::TimePoint deadline);

 private:
  struct Sending {
    transport::Request request;
    SharedBuffer body;
  };
  static transport::Request send(transport::Connection& to, transport::Tag tag, SharedBuffer body,
                                 std::vector<Sending>& sending);
  static void reap(std::vector<Sending>& sending);

  std::vector<std::vector<Sending>> slices_;
  std::vector<Sending> others_;
};

/// A shard's parameters, slice by slice. A slice that a queued send still reads is copied before
/// it is changed, so each answer carries the version it announced. Not thread-safe.
class ParameterStore {
 public:
  /// Makes memory for a slice.
  using Allocate = std::function<SharedBuffer(std::size_t size)>;
  static SharedBuffer ordinary_memory(std::size_t size) {
    return std::make_shared<base::Buffer>(size);
  }
  explicit ParameterStore(const std::vector<base::ConstBytes>& initial,
                          Allocate allocate = ordinary_memory);

  /// To hand to an Outbox; stays as it is from then on.
  const SharedBuffer& snapshot(std::size_t slice) const { return slices_[slice].current; }
  base::ConstBytes view(std::size_t slice) const { return slices_[slice].current->view(); }
  /// A queued send still reads the slice: `writable` will copy it.
  bool is_lent(std::size_t slice) const { return slices_[slice].current.use_count() > 1; }
  /// Memory to change. Views and memory from earlier calls are stale afterwards.
  base::Bytes writable(std::size_t slice);
  /// As writable, but with unspecified contents.
  base::Bytes overwritable(std::size_t slice);

 private:
  struct Versions {
    SharedBuffer current;
    SharedBuffer other;  ///< the one before, whose memory is used again once its sends are over
  };
  bool take_other(Versions& slice);
  SharedBuffer memory(std::size_t size, bool phantom) const;

  const Allocate allocate_;
  std::vector<Versions> slices_;
};

}  // namespace gearshift::ps
