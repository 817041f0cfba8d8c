#include "collectives/broadcast/relay.h"

#include <algorithm>

#include "collectives/in_flight.h"
#include "collectives/segments.h"

namespace gearshift::collectives {
namespace {

class Relay {
 public:
  Relay(Operation& operation, base::Bytes data, std::size_t segments, const Place& place)
      : operation_(operation),
        data_(data),
        segments_(segments),
        place_(place),
        window_(std::min(in_flight(operation.group()), segments)),
        receiving_(window_),
        sending_(place.children.size() * window_) {}

  ~Relay() {
    for (const auto& request : receiving_) operation_.withdraw(request);
    for (const auto& request : sending_) operation_.withdraw(request);
  }
  Relay(const Relay&) = delete;
  Relay& operator=(const Relay&) = delete;

  base::Status run() {
    for (std::size_t k = 0; k < window_; ++k) post(k);
    for (std::size_t k = 0; k < segments_; ++k) {
      GEARSHIFT_RETURN_IF_ERROR(receive(k));
      GEARSHIFT_RETURN_IF_ERROR(pass_on(k));
    }
    for (std::size_t k = segments_ - window_; k < segments_; ++k) {
      GEARSHIFT_RETURN_IF_ERROR(await_sends(k));
    }
    return {};
  }

 private:
  base::Bytes cut(std::size_t k) const { return segment(data_, 1, segments_, k); }

  void post(std::size_t k) {
    if (place_.parent < 0) return;
    receiving_[k % window_] = operation_.link(place_.parent).recv(operation_.tag(k), cut(k));
  }

  base::Status receive(std::size_t k) {
    if (place_.parent < 0) return {};
    GEARSHIFT_RETURN_IF_ERROR(
        operation_.await_recv(receiving_[k % window_], place_.parent, {k, segments_}));
    if (k + window_ < segments_) post(k + window_);
    return {};
  }

  transport::Request& sending(std::size_t k, std::size_t child) {
    return sending_[child * window_ + k % window_];
  }

  base::Status pass_on(std::size_t k) {
    if (k >= window_) GEARSHIFT_RETURN_IF_ERROR(await_sends(k - window_));
    for (std::size_t i = 0; i < place_.children.size(); ++i) {
      sending(k, i) = operation_.link(place_.children[i]).send(operation_.tag(k), cut(k));
    }
    return {};
  }

  base::Status await_sends(std::size_t k) {
    for (std::size_t i = 0; i < place_.children.size(); ++i) {
      GEARSHIFT_RETURN_IF_ERROR(
          operation_.await_send(sending(k, i), place_.children[i], {k, segments_}));
    }
    return {};
  }

  Operation& operation_;
  const base::Bytes data_;
  const std::size_t segments_;
  const Place& place_;
  const std::size_t window_;
  std::vector<transport::Request> receiving_;
  std::vector<transport::Request> sending_;
};

}  // namespace

base::Status relay(Operation& operation, base::Bytes data, std::size_t segments,
                   const Place& place) {
  operation.reserve(segments);
  return Relay(operation, data, segments, place).run();
}

}  // namespace gearshift::collectives
