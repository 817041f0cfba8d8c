#include "gearshift/transport/connection.h"

#include "gearshift/transport/requests.h"
#include "gearshift/transport/shared_region.h"

namespace gearshift::transport {
namespace {

base::Error no_regions(const Connection& connection) {
  return {base::ErrorCode::kUnsupported,
          "transport " + connection.capabilities().transport +
              " cannot share memory; choose one with capabilities().shared_regions (shm)"};
}

}  // namespace

base::Status Connection::offer_region(std::uint64_t, const SharedRegion&) {
  return no_regions(*this);
}

base::Result<std::unique_ptr<SharedRegion>> Connection::accept_region(std::uint64_t,
                                                                      base::TimePoint) {
  return no_regions(*this);
}

base::Result<std::unique_ptr<LentRegion>> Connection::lend(const SharedRegion&) {
  return no_regions(*this);
}

Request Connection::send_lent(Tag tag, base::ConstBytes head, base::ConstBytes body) {
  return send(tag, head, body);
}

void Connection::limit_flow(const FlowLimit&) {}

std::string describe(Tag tag) {
  return "channel " + std::to_string(tag.channel()) + ", sequence " +
         std::to_string(tag.sequence()) + ", part " + std::to_string(tag.part());
}

base::Status check_outgoing(Tag tag, base::ConstBytes head, base::ConstBytes body) {
  if (head.size() > kMaxHeadBytes || body.size() > kMaxBodyBytes) {
    return base::Error(
        base::ErrorCode::kInvalidArgument,
        "message (" + describe(tag) + ") is too large: head " + std::to_string(head.size()) +
            " of at most " + std::to_string(kMaxHeadBytes) + " bytes, body " +
            std::to_string(body.size()) + " of at most " + std::to_string(kMaxBodyBytes));
  }
  return {};
}

}  // namespace gearshift::transport
