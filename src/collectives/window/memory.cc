#include <memory>
#include <utility>

#include "collectives/window/operation.h"
#include "gearshift/collectives/collectives.h"

namespace gearshift::collectives {
namespace {

class WindowBuffer final : public SharedBuffer {
 public:
  explicit WindowBuffer(std::shared_ptr<group::Attachment> attachment)
      : attachment_(std::move(attachment)) {}
  base::Bytes view() override { return attachment_->view(); }
  const transport::SharedRegion& region() const override { return attachment_->region(); }

 private:
  std::shared_ptr<group::Attachment> attachment_;
};

/// Where nobody shares: a region all the same, which comes zeroed and fails without an exception.
class PlainBuffer final : public SharedBuffer {
 public:
  PlainBuffer(std::unique_ptr<transport::SharedRegion> region, std::size_t bytes)
      : region_(std::move(region)), bytes_(bytes) {}
  base::Bytes view() override { return region_->view().first(bytes_); }
  const transport::SharedRegion& region() const override { return *region_; }

 private:
  std::unique_ptr<transport::SharedRegion> region_;
  std::size_t bytes_;
};

}  // namespace

base::Result<std::unique_ptr<SharedBuffer>> allocate(group::Group& group, std::size_t bytes) {
  GEARSHIFT_ASSIGN_OR_RETURN(group::Window* const window, window_of(group));
  if (window == nullptr) {
    GEARSHIFT_ASSIGN_OR_RETURN(auto region, transport::SharedRegion::create(bytes));
    return std::unique_ptr<SharedBuffer>(std::make_unique<PlainBuffer>(std::move(region), bytes));
  }
  GEARSHIFT_ASSIGN_OR_RETURN(auto attachment, window->allocate(group, bytes, group.deadline()));
  return std::unique_ptr<SharedBuffer>(std::make_unique<WindowBuffer>(std::move(attachment)));
}

}  // namespace gearshift::collectives
