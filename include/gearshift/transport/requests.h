#pragma once

#include <functional>
#include <memory>
#include <utility>

#include "gearshift/transport/connection.h"

namespace gearshift::transport {

/// The state of an operation that was refused when it was posted.
class FailedRequest final : public RequestState {
 public:
  explicit FailedRequest(base::Error error) : error_(std::move(error)) {}
  base::Status wait(base::TimePoint) override { return error_; }
  bool done() const override { return true; }
  bool when_done(std::function<void()> then) override {
    then();
    return true;
  }

 private:
  const base::Error error_;
};

inline Request failed_request(base::Error error) {
  return Request(std::make_shared<FailedRequest>(std::move(error)));
}

/// "channel 3, sequence 17, part 0".
std::string describe(Tag tag);

/// Whether a message of this size may travel at all; kInvalidArgument otherwise.
base::Status check_outgoing(Tag tag, base::ConstBytes head, base::ConstBytes body);

}  // namespace gearshift::transport
