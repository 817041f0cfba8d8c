#include "ps/outbox.h"

#include <cstring>
#include <utility>

#include "gearshift/base/log.h"

namespace gearshift::ps {
namespace {

void copy(base::ConstBytes from, base::Bytes to) {
  if (from.data() != nullptr && to.data() != nullptr) {
    std::memcpy(to.data(), from.data(), from.size());
  }
}

void finish(const transport::Request& request, base::TimePoint deadline) {
  const base::Status sent = request.wait(deadline);
  if (!sent) GEARSHIFT_LOG_AT(kDebug, "ps", "an answer was not sent: " << sent.error().message);
}

}  // namespace

void Outbox::send(transport::Connection& to, transport::Tag tag, SharedBuffer body) {
  send(to, tag, std::move(body), others_);
}

transport::Request Outbox::send_slice(transport::Connection& to, transport::Tag tag,
                                      std::size_t slice, SharedBuffer body) {
  return send(to, tag, std::move(body), slices_[slice]);
}

transport::Request Outbox::send(transport::Connection& to, transport::Tag tag, SharedBuffer body,
                                std::vector<Sending>& sending) {
  transport::Request request = to.send_lent(tag, {}, std::as_const(*body).view());
  if (!request.done()) sending.push_back({request, std::move(body)});
  return request;
}

void Outbox::reap() {
  for (std::vector<Sending>& sending : slices_) reap(sending);
  reap(others_);
}

void Outbox::reap(std::size_t slice) { reap(slices_[slice]); }

void Outbox::reap(std::vector<Sending>& sending) {
  std::erase_if(sending, [](const Sending& s) {
    if (!s.request.done()) return false;
    finish(s.request, base::TimePoint::never());
    return true;
  });
}

void Outbox::drain(base::TimePoint deadline) {
  const auto drain_one = [deadline](std::vector<Sending>& sending) {
    for (const Sending& s : sending) finish(s.request, deadline);
    sending.clear();
  };
  for (std::vector<Sending>& sending : slices_) drain_one(sending);
  drain_one(others_);
}

ParameterStore::ParameterStore(const std::vector<base::ConstBytes>& initial, Allocate allocate)
    : allocate_(std::move(allocate)) {
  slices_.reserve(initial.size());
  for (const base::ConstBytes bytes : initial) {
    slices_.push_back({memory(bytes.size(), base::is_phantom(bytes)), nullptr});
    copy(bytes, slices_.back().current->view());
  }
}

SharedBuffer ParameterStore::memory(std::size_t size, bool phantom) const {
  return phantom ? std::make_shared<base::Buffer>(base::Buffer::phantom(size)) : allocate_(size);
}

base::Bytes ParameterStore::writable(std::size_t slice) {
  Versions& versions = slices_[slice];
  if (take_other(versions)) {
    copy(std::as_const(*versions.other).view(), versions.current->view());
  }
  return versions.current->view();
}

base::Bytes ParameterStore::overwritable(std::size_t slice) {
  take_other(slices_[slice]);
  return slices_[slice].current->view();
}

/// Makes `current` memory that nobody else holds; true when that took a change of memory. Only the
/// shard's task holds and drops references, so the counts are exact.
bool ParameterStore::take_other(Versions& slice) {
  if (slice.current.use_count() == 1) return false;
  if (!slice.other || slice.other.use_count() > 1) {
    const base::ConstBytes now = std::as_const(*slice.current).view();
    slice.other = memory(now.size(), base::is_phantom(now));
  }
  std::swap(slice.current, slice.other);
  return true;
}

}  // namespace gearshift::ps
