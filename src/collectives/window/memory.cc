#include <memory>
#include <utility>

#include "collectives/window/operation.h"
#include "gearshift/base/pages.h"
#include "gearshift/collectives/collectives.h"

namespace gearshift::collectives {
namespace {

class WindowBuffer final : public SharedBuffer {
 public:
  explicit WindowBuffer(std::shared_ptr<group::Attachment> attachment)
      : attachment_(std::move(attachment)) {}
  base::Bytes view() override { return attachment_->view(); }
  const transport::SharedRegion* region() const override { return &attachment_->region(); }

 private:
  std::shared_ptr<group::Attachment> attachment_;
};

class PlainBuffer final : public SharedBuffer {
 public:
  explicit PlainBuffer(std::unique_ptr<base::Pages> pages) : pages_(std::move(pages)) {}
  base::Bytes view() override { return pages_->view(); }
  const transport::SharedRegion* region() const override { return nullptr; }

 private:
  std::unique_ptr<base::Pages> pages_;
};

}  // namespace

base::Result<std::unique_ptr<SharedBuffer>> allocate(group::Group& group, std::size_t bytes) {
  GEARSHIFT_ASSIGN_OR_RETURN(group::Window* const window, window_of(group));
  if (window == nullptr) {
    GEARSHIFT_ASSIGN_OR_RETURN(auto pages, base::Pages::create(bytes));
    return std::unique_ptr<SharedBuffer>(std::make_unique<PlainBuffer>(std::move(pages)));
  }
  GEARSHIFT_ASSIGN_OR_RETURN(auto attachment, window->allocate(group, bytes, group.deadline()));
  return std::unique_ptr<SharedBuffer>(std::make_unique<WindowBuffer>(std::move(attachment)));
}

}  // namespace gearshift::collectives
