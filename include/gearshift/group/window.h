#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "gearshift/base/bytes.h"
#include "gearshift/base/result.h"
#include "gearshift/base/scheduler.h"
#include "gearshift/group/group.h"
#include "gearshift/transport/connection.h"
#include "gearshift/transport/host_sync.h"
#include "gearshift/transport/shared_region.h"

namespace gearshift::group {

/// Memory of one rank that the other ranks of its group have mapped, and theirs mapped here. Peers
/// can read and write it for as long as any of them holds its own handle.
///
/// Thread-safety: all methods.
class Attachment {
 public:
  base::Bytes view() const { return view_; }
  /// Of an attachment that was allocated.
  const transport::SharedRegion& region() const { return *region_; }

 private:
  friend class Window;
  std::uint64_t id_ = 0;
  base::Bytes own_;                                  ///< the whole region
  base::Bytes view_;                                 ///< what the owner uses of it
  std::unique_ptr<transport::SharedRegion> region_;  ///< when the attachment owns its memory
  std::vector<std::unique_ptr<transport::SharedRegion>> peers_;  ///< by rank; the own one is null
};

/// Shared memory of all ranks of one group, all of which run on one host: where they meet without
/// messages, and see each other's buffers.
///
/// Every rank has a *stage* of three parts, through which data in ordinary memory passes; attached
/// memory (buckets) is read and written in place. What peers say about addresses is checked before
/// it is used. One window per Group object, opened by its first operation that wants one.
///
/// Thread-safety: one collective at a time, as for the group; `Attachment` handles may be dropped
/// by any task between collectives.
class Window {
 public:
  /// Bytes of each part of a stage. Pages that are never touched cost nothing.
  static constexpr std::size_t kStageBytes = std::size_t{1} << 20;
  static constexpr int kStageParts = 3;

  /// Collective over the group. Only where `group.shares_memory()`.
  static base::Result<std::shared_ptr<Window>> open(const Group& group, base::TimePoint deadline);
  ~Window();
  Window(const Window&) = delete;
  Window& operator=(const Window&) = delete;

  int size() const { return sync_->participants(); }
  int rank() const { return sync_->self(); }

  /// What broke a link between the ranks, if something has. Asked before each operation: ranks that
  /// meet in memory would not notice otherwise that their group has failed.
  base::Status intact() const;

  /// The own next round: values for `arrive` and `await`, which all ranks count alike.
  std::uint64_t next_round() { return ++round_; }
  /// What `next_round` is going to return.
  std::uint64_t coming_round() const { return round_ + 1; }
  void arrive(std::uint64_t round) { sync_->arrive(round); }
  /// Waits a moment, without looking at the clock, until all have reached the round.
  bool quick(std::uint64_t round) const { return sync_->poll_all(round); }
  /// Waits until all have reached the round. Errors: what broke a link while one is missing, or
  /// kTimeout, naming the one that is missing.
  base::Status await(std::uint64_t round, base::Duration timeout,
                     transport::HostSync::Patience patience);

  /// The part of the stages to write next; all ranks take them in turn, and alike. A part may be
  /// read after the round at which it is announced, until its owner has passed one more round; so
  /// it may be written again after two.
  int next_part() { return part_ = (part_ + 1) % kStageParts; }
  std::byte* stage(int rank, int part) const;

  /// Where a view lies in attached memory.
  struct Place {
    std::uint64_t id = 0;  ///< 0: nowhere
    std::uint64_t offset = 0;
  };
  Place find(base::ConstBytes view) const;
  /// Keeps the attachment `id` mapped during an operation; null when it is unknown.
  std::shared_ptr<Attachment> hold(std::uint64_t id) const;
  /// What `rank` has at that place, mapped here; null when such a place cannot be.
  std::byte* at(const Attachment& attachment, int rank, Place place, std::size_t bytes) const;

  /// Collective: lets all ranks see this one's region, which must outlive the handle here.
  base::Result<std::shared_ptr<Attachment>> attach(const Group& group,
                                                   const transport::SharedRegion& region,
                                                   base::TimePoint deadline);
  /// Collective: new zeroed memory of that size on each rank. It begins at another place within a
  /// page on each, since lines at equal places compete for the same few ways of a cache.
  base::Result<std::shared_ptr<Attachment>> allocate(const Group& group, std::size_t bytes,
                                                     base::TimePoint deadline);

 private:
  Window(const Group& group, std::unique_ptr<transport::SharedRegion> region,
         std::unique_ptr<transport::HostSync> sync);
  base::Status await_one(int rank, std::uint64_t round, base::TimePoint deadline,
                         transport::HostSync::Patience patience);
  base::Result<std::vector<std::unique_ptr<transport::SharedRegion>>> exchange(
      const Group& group, std::uint64_t id, const transport::SharedRegion& region,
      base::TimePoint deadline) const;

  base::Scheduler& scheduler_;
  const std::unique_ptr<transport::SharedRegion> region_;
  const std::unique_ptr<transport::HostSync> sync_;
  std::byte* stages_;
  /// One receive per link that no message ever satisfies: it fails when the link breaks.
  std::vector<transport::Request> sentinels_;
  std::uint64_t round_ = 0;
  std::uint64_t attached_ = 0;
  int part_ = 0;
  std::vector<std::weak_ptr<Attachment>> attachments_;
};

}  // namespace gearshift::group
