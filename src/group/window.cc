#include "gearshift/group/window.h"

#include <algorithm>
#include <string>
#include <utility>

namespace gearshift::group {
namespace {

using base::Error;
using base::ErrorCode;
using transport::SharedRegion;

/// How often a waiting rank looks whether the one that it waits for is still connected.
constexpr base::Duration kLook = std::chrono::milliseconds(20);
constexpr std::size_t kAlign = 4096;
/// Where the memory of rank r begins: at place r mod kPlaces of a page.
constexpr int kPlaces = 7;
constexpr std::size_t kStride = 576;

std::size_t sync_bytes(int size) {
  return (transport::HostSync::bytes_needed(size) + kAlign - 1) / kAlign * kAlign;
}

std::size_t window_bytes(int size) {
  return sync_bytes(size) +
         static_cast<std::size_t>(size * Window::kStageParts) * Window::kStageBytes;
}

/// Names of regions on the links: one space per channel, whose number 0 is the window itself.
std::uint64_t region_id(const Group& group, std::uint64_t number) {
  return (std::uint64_t{group.channel()} << 48) | number;
}

/// A tag that no operation uses: sequence numbers do not get there.
transport::Tag sentinel_tag(const Group& group) { return {group.channel(), 0xFFFF'FFFF, 0xFFFF}; }

}  // namespace

Window::Window(const Group& group, std::unique_ptr<SharedRegion> region,
               std::unique_ptr<transport::HostSync> sync)
    : scheduler_(group.scheduler()),
      region_(std::move(region)),
      sync_(std::move(sync)),
      stages_(region_->view().data() + sync_bytes(group.size())) {
  for (int r = 0; r < group.size(); ++r) {
    sentinels_.push_back(r == group.rank().value
                             ? transport::Request()
                             : group.link(base::Rank(r)).recv(sentinel_tag(group), {}));
  }
}

/// The links live on, and may see many windows.
Window::~Window() {
  for (const transport::Request& sentinel : sentinels_) {
    static_cast<void>(sentinel.wait(base::TimePoint()));
  }
}

base::Result<std::shared_ptr<Window>> Window::open(const Group& group, base::TimePoint deadline) {
  const std::size_t bytes = window_bytes(group.size());
  std::unique_ptr<SharedRegion> region;
  if (group.rank().value == 0) {
    GEARSHIFT_ASSIGN_OR_RETURN(region, SharedRegion::create(bytes));
    for (int r = 1; r < group.size(); ++r) {
      GEARSHIFT_RETURN_IF_ERROR(
          group.link(base::Rank(r)).offer_region(region_id(group, 0), *region));
    }
  } else {
    GEARSHIFT_ASSIGN_OR_RETURN(
        region, group.link(base::Rank(0)).accept_region(region_id(group, 0), deadline));
    if (region->size() < bytes) {
      return Error(ErrorCode::kProtocol, "the shared window is too small", 0);
    }
  }
  GEARSHIFT_ASSIGN_OR_RETURN(
      auto sync, transport::HostSync::join(group.scheduler(), region->view().first(bytes),
                                           group.size(), group.rank().value));
  return std::shared_ptr<Window>(new Window(group, std::move(region), std::move(sync)));
}

base::Status Window::intact() const {
  for (int r = 0; r < size(); ++r) {
    const transport::Request& sentinel = sentinels_[static_cast<std::size_t>(r)];
    if (r != rank() && sentinel.done()) return sentinel.wait(scheduler_.now());
  }
  return {};
}

base::Status Window::await(std::uint64_t round, base::Duration timeout,
                           transport::HostSync::Patience patience) {
  const base::TimePoint deadline = scheduler_.after(timeout);
  for (int r = 0; r < size(); ++r) {
    if (r != rank()) GEARSHIFT_RETURN_IF_ERROR(await_one(r, round, deadline, patience));
  }
  return {};
}

base::Status Window::await_one(int rank, std::uint64_t round, base::TimePoint deadline,
                               transport::HostSync::Patience patience) {
  while (true) {
    // Any link counts: the awaited rank may have failed at another one, and never come. All ranks
    // pass a round together, so one that has left after it leaves nobody waiting in it.
    const base::Status links = intact();
    const base::TimePoint now = scheduler_.now();
    const base::Status status =
        sync_->wait_for(rank, round, std::min(deadline, now + kLook), patience);
    if (status || status.error().code != ErrorCode::kTimeout) return status;
    // What was said before a link broke counts, hence the order.
    if (!links) return links;
    if (now >= deadline) return status;
  }
}

std::byte* Window::stage(int rank, int part) const {
  return stages_ + static_cast<std::size_t>(kStageParts * rank + part) * kStageBytes;
}

Window::Place Window::find(base::ConstBytes view) const {
  for (const auto& weak : attachments_) {
    const std::shared_ptr<Attachment> attachment = weak.lock();
    if (!attachment) continue;
    const base::Bytes own = attachment->own_;
    const auto begin = reinterpret_cast<std::uintptr_t>(own.data());
    const auto at = reinterpret_cast<std::uintptr_t>(view.data());
    if (at >= begin && at - begin <= own.size() && view.size() <= own.size() - (at - begin)) {
      return {attachment->id_, at - begin};
    }
  }
  return {};
}

std::shared_ptr<Attachment> Window::hold(std::uint64_t id) const {
  for (const auto& weak : attachments_) {
    std::shared_ptr<Attachment> attachment = weak.lock();
    if (attachment && attachment->id_ == id) return attachment;
  }
  return nullptr;
}

std::byte* Window::at(const Attachment& attachment, int rank, Place place,
                      std::size_t bytes) const {
  const auto& peer = attachment.peers_[static_cast<std::size_t>(rank)];
  const base::Bytes memory = rank == this->rank() ? attachment.own_ : peer->view();
  if (place.offset > memory.size() || bytes > memory.size() - place.offset) return nullptr;
  return memory.data() + place.offset;
}

base::Result<std::vector<std::unique_ptr<SharedRegion>>> Window::exchange(
    const Group& group, std::uint64_t id, const SharedRegion& region,
    base::TimePoint deadline) const {
  std::vector<std::unique_ptr<SharedRegion>> peers(static_cast<std::size_t>(size()));
  for (int r = 0; r < size(); ++r) {
    if (r == rank()) continue;
    GEARSHIFT_RETURN_IF_ERROR(group.link(base::Rank(r)).offer_region(region_id(group, id), region));
  }
  for (int r = 0; r < size(); ++r) {
    if (r == rank()) continue;
    GEARSHIFT_ASSIGN_OR_RETURN(
        peers[static_cast<std::size_t>(r)],
        group.link(base::Rank(r)).accept_region(region_id(group, id), deadline));
  }
  return peers;
}

base::Result<std::shared_ptr<Attachment>> Window::attach(const Group& group,
                                                         const SharedRegion& region,
                                                         base::TimePoint deadline) {
  std::erase_if(attachments_, [](const auto& weak) { return weak.expired(); });
  auto made = std::make_shared<Attachment>();
  made->id_ = ++attached_;
  made->own_ = made->view_ = region.view();
  GEARSHIFT_ASSIGN_OR_RETURN(made->peers_, exchange(group, made->id_, region, deadline));
  attachments_.push_back(made);
  return made;
}

base::Result<std::shared_ptr<Attachment>> Window::allocate(const Group& group, std::size_t bytes,
                                                           base::TimePoint deadline) {
  const std::size_t begin = static_cast<std::size_t>(rank() % kPlaces) * kStride;
  GEARSHIFT_ASSIGN_OR_RETURN(auto region, SharedRegion::create(begin + bytes));
  GEARSHIFT_ASSIGN_OR_RETURN(auto made, attach(group, *region, deadline));
  made->view_ = region->view().subspan(begin, bytes);
  made->region_ = std::move(region);
  return made;
}

}  // namespace gearshift::group
