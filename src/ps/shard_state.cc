#include <cstring>
#include <utility>

#include "ps/layout_check.h"
#include "ps/links.h"
#include "ps/shard_impl.h"

namespace gearshift::ps {
namespace {

using base::Error;
using base::ErrorCode;

/// Calls visit(segment, name, part of `data`) for each tensor of a slice's state, in wire order.
template <typename View, typename Visit>
base::Status for_each_tensor(const Slice& slice, const std::vector<SegmentState>& segments,
                             View data, const Visit& visit) {
  std::size_t offset = 0;
  for (std::uint32_t s = 0; s < segments.size(); ++s) {
    const std::size_t size = bytes_of_segment(slice, slice.segments[s]);
    for (const std::string& name : segments[s].tensors) {
      GEARSHIFT_RETURN_IF_ERROR(visit(s, name, base::slice(data, offset, size)));
      offset += size;
    }
  }
  return {};
}

}  // namespace

base::Status ShardImpl::fetch_state(Request& request) {
  StateDescription description;
  for (std::uint32_t i = 0; i < options_.slices.size(); ++i) {
    auto& segments = description.slices.emplace_back();
    for (std::uint32_t s = 0; s < options_.slices[i].segments.size(); ++s) {
      segments.push_back({optimizer_->tensor_names(i, s), optimizer_->scalars(i, s)});
    }
  }
  const std::vector<std::byte> bytes = encode(description);
  ReplyWire reply;
  reply.bytes_or_lead = static_cast<std::uint32_t>(bytes.size());
  answer(request.from, request.head.request, reply);
  transport::Connection& link = link_to(group_, base::Rank(request.from));
  const auto tag = [&](std::size_t part) {
    return reply_tag(options_.model, request.head.request, static_cast<std::uint16_t>(part));
  };
  outbox_.send(link, tag(kDescriptionPart),
               std::make_shared<base::Buffer>(base::Buffer::copy_of({bytes.data(), bytes.size()})));
  for (std::uint32_t i = 0; i < options_.slices.size(); ++i) {
    const std::size_t size = description.data_bytes(options_.slices, i);
    if (size == 0) continue;
    const bool phantom = base::is_phantom(parameters_.view(i));
    auto data =
        std::make_shared<base::Buffer>(phantom ? base::Buffer::phantom(size) : base::Buffer(size));
    GEARSHIFT_RETURN_IF_ERROR(
        for_each_tensor(options_.slices[i], description.slices[i], data->view(),
                        [&](std::uint32_t s, const std::string& name, base::Bytes out) {
                          return optimizer_->read_tensor(i, s, name, out);
                        }));
    worked(base::Work::kCopy, size);
    outbox_.send(link, tag(i), std::move(data));
  }
  return {};
}

base::Status ShardImpl::store_state(Request& request) {
  const base::ConstBytes body = std::as_const(request.body).view();
  if (base::is_phantom(body)) return Error(ErrorCode::kProtocol, "a description without contents");
  GEARSHIFT_ASSIGN_OR_RETURN(auto description, decode_description(body, options_.slices));
  storing_[{request.from, request.head.request}].description = std::move(description);
  return finish_storing(request);
}

base::Status ShardImpl::store_state_data(Request& request) {
  GEARSHIFT_RETURN_IF_ERROR(check_slice(request));
  storing_[{request.from, request.head.request}].data[request.head.slice] = std::move(request.body);
  return finish_storing(request);
}

base::Status ShardImpl::finish_storing(const Request& request) {
  const std::pair key{request.from, request.head.request};
  const Storing& storing = storing_[key];
  if (!storing.description) return {};
  for (std::uint32_t i = 0; i < options_.slices.size(); ++i) {
    const auto data = storing.data.find(i);
    const std::size_t got = data == storing.data.end() ? 0 : data->second.size();
    const std::size_t wanted = storing.description->data_bytes(options_.slices, i);
    if (got == wanted) continue;
    if (got == 0) return {};  // still under way
    return Error(ErrorCode::kProtocol, "state of " + std::to_string(got) + " bytes for slice " +
                                           std::to_string(i) + " where " + std::to_string(wanted) +
                                           " were announced");
  }
  GEARSHIFT_RETURN_IF_ERROR(write_state(storing));
  storing_.erase(key);
  answer(request.from, request.head.request, {});
  return {};
}

base::Status ShardImpl::write_state(const Storing& storing) {
  optimizer_->reset();
  for (std::uint32_t i = 0; i < options_.slices.size(); ++i) {
    const auto& segments = storing.description->slices[i];
    const auto data = storing.data.find(i);
    const base::ConstBytes bytes =
        data == storing.data.end() ? base::ConstBytes() : data->second.view();
    GEARSHIFT_RETURN_IF_ERROR(
        for_each_tensor(options_.slices[i], segments, bytes,
                        [&](std::uint32_t s, const std::string& name, base::ConstBytes in) {
                          return optimizer_->write_tensor(i, s, name, in);
                        }));
    worked(base::Work::kCopy, bytes.size());
    for (std::uint32_t s = 0; s < segments.size(); ++s) {
      for (const auto& [name, value] : segments[s].scalars) {
        GEARSHIFT_RETURN_IF_ERROR(optimizer_->write_scalar(i, s, name, value));
      }
    }
  }
  return {};
}

base::Status ShardImpl::store_parameters(Request& request) {
  GEARSHIFT_RETURN_IF_ERROR(check_slice(request));
  const std::size_t slice = request.head.slice;
  if (request.body.size() != options_.slices[slice].bytes) {
    return Error(ErrorCode::kProtocol, "parameters of " + std::to_string(request.body.size()) +
                                           " bytes for slice " + std::to_string(slice) + " of " +
                                           std::to_string(options_.slices[slice].bytes));
  }
  outbox_.reap();
  const base::Bytes memory = parameters_.overwritable(slice);
  if (memory.data() != nullptr && request.body.data() != nullptr) {
    std::memcpy(memory.data(), request.body.data(), memory.size());
  }
  worked(base::Work::kCopy, memory.size());
  std::size_t& stored = stored_slices_[{request.from, request.head.request}];
  if (++stored < options_.slices.size()) return {};
  stored_slices_.erase({request.from, request.head.request});
  answer(request.from, request.head.request, {});
  return {};
}

}  // namespace gearshift::ps
