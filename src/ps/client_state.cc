#include <algorithm>
#include <cstring>
#include <utility>

#include "ps/client_impl.h"
#include "ps/layout_check.h"
#include "ps/state_codec.h"

namespace gearshift::ps {
namespace {

using base::Buffer;
using base::Bytes;
using base::ConstBytes;
using base::Error;
using base::ErrorCode;

void copy(ConstBytes from, Bytes to) {
  if (from.data() != nullptr && to.data() != nullptr) {
    std::memcpy(to.data(), from.data(), from.size());
  }
}

Buffer memory(std::size_t size, bool phantom) {
  return phantom ? Buffer::phantom(size) : Buffer(size);
}

Buffer zeros(std::size_t size, bool phantom) {
  Buffer buffer = memory(size, phantom);
  base::zero(buffer.view());
  return buffer;
}

bool has_phantoms(const std::vector<StateEntry>& state) {
  return std::any_of(state.begin(), state.end(), [](const StateEntry& entry) {
    return std::any_of(entry.tensors.begin(), entry.tensors.end(),
                       [](const auto& tensor) { return base::is_phantom(tensor.second.view()); });
  });
}

/// The part of a whole parameter's tensor that a segment holds.
template <typename View>
View part_of(const Slice& slice, const Segment& segment, View whole) {
  return base::slice(whole, segment.parameter_offset * base::size_of(slice.dtype),
                     bytes_of_segment(slice, segment));
}

base::Status check_parameters(const Layout& layout, const std::vector<std::size_t>& sizes,
                              const std::vector<base::DType>& dtypes) {
  for (const auto& slices : layout.shards) {
    for (const Slice& slice : slices) {
      for (const Segment& s : slice.segments) {
        if (s.parameter < sizes.size() && s.parameter < dtypes.size() &&
            dtypes[s.parameter] == slice.dtype &&
            s.parameter_offset + s.size <= sizes[s.parameter]) {
          continue;
        }
        return Error(ErrorCode::kInvalidArgument, "parameter " + std::to_string(s.parameter) +
                                                      " differs from the layout in size or dtype");
      }
    }
  }
  return {};
}

/// Adds what one slice holds to the parameters' entries. `data` is a phantom if state is.
void merge(const Slice& slice, const std::vector<SegmentState>& segments, ConstBytes data,
           const std::vector<std::size_t>& sizes, std::vector<StateEntry>& entries) {
  std::size_t offset = 0;
  for (std::size_t i = 0; i < segments.size(); ++i) {
    const Segment& s = slice.segments[i];
    StateEntry& entry = entries[s.parameter];
    for (const auto& [name, value] : segments[i].scalars) entry.scalars[name] = value;
    for (const std::string& name : segments[i].tensors) {
      auto found = entry.tensors.find(name);
      if (found == entry.tensors.end()) {
        const std::size_t size = sizes[s.parameter] * base::size_of(slice.dtype);
        Buffer whole = zeros(size, base::is_phantom(data));
        found = entry.tensors.emplace(name, std::move(whole)).first;
      }
      const std::size_t size = bytes_of_segment(slice, s);
      copy(base::slice(data, offset, size), part_of(slice, s, found->second.view()));
      offset += size;
    }
  }
}

/// One shard's share of the state, ready to travel.
struct Share {
  std::vector<std::byte> description;
  std::vector<Buffer> data;  ///< by slice

  std::size_t data_bytes() const {
    std::size_t bytes = 0;
    for (const Buffer& buffer : data) bytes += buffer.size();
    return bytes;
  }
};

base::Result<Share> cut(const std::vector<Slice>& slices, const std::vector<StateEntry>& state,
                        bool phantom) {
  StateDescription description;
  Share share;
  for (std::size_t i = 0; i < slices.size(); ++i) {
    auto& segments = description.slices.emplace_back();
    for (const Segment& s : slices[i].segments) {
      SegmentState& kept = segments.emplace_back();
      if (s.parameter >= state.size()) continue;
      kept.scalars = state[s.parameter].scalars;
      for (const auto& [name, tensor] : state[s.parameter].tensors) {
        const std::size_t end = (s.parameter_offset + s.size) * base::size_of(slices[i].dtype);
        if (end > tensor.size()) {
          return Error(
              ErrorCode::kInvalidArgument,
              "state '" + name + "' of parameter " + std::to_string(s.parameter) + " is too small");
        }
        kept.tensors.push_back(name);
      }
    }
    Buffer data = memory(description.data_bytes(slices, i), phantom);
    std::size_t offset = 0;
    for (std::size_t n = 0; n < segments.size(); ++n) {
      const Segment& s = slices[i].segments[n];
      for (const std::string& name : segments[n].tensors) {
        const std::size_t size = bytes_of_segment(slices[i], s);
        copy(part_of(slices[i], s, state[s.parameter].tensors.at(name).view()),
             base::slice(data.view(), offset, size));
        offset += size;
      }
    }
    share.data.push_back(std::move(data));
  }
  share.description = encode(description);
  return share;
}

}  // namespace

base::Result<std::vector<StateEntry>> Client::fetch_state(
    const std::vector<std::size_t>& parameter_sizes, const std::vector<base::DType>& dtypes) {
  GEARSHIFT_RETURN_IF_ERROR(impl_->usable);
  const auto& shards = impl_->layout().shards;
  GEARSHIFT_RETURN_IF_ERROR(check_parameters(impl_->layout(), parameter_sizes, dtypes));
  std::vector<std::vector<Buffer>> data(shards.size());
  std::vector<Buffer> described(shards.size());
  Exchange exchange(*impl_, "fetch optimizer state");
  for (std::size_t k = 0; k < shards.size(); ++k) {
    exchange.receive_reply(k);
    exchange.send(k, exchange.head(Kind::kFetchState));
  }
  GEARSHIFT_RETURN_IF_ERROR(exchange.finish());
  for (std::size_t k = 0; k < shards.size(); ++k) {
    described[k] = Buffer(exchange.replies[k].bytes_or_lead);
    exchange.receive(k, kDescriptionPart, described[k].view());
  }
  GEARSHIFT_RETURN_IF_ERROR(exchange.finish());
  std::vector<StateDescription> descriptions;
  for (std::size_t k = 0; k < shards.size(); ++k) {
    GEARSHIFT_ASSIGN_OR_RETURN(auto description,
                               decode_description(std::as_const(described[k]).view(), shards[k]));
    for (std::size_t i = 0; i < shards[k].size(); ++i) {
      const std::size_t bytes = description.data_bytes(shards[k], i);
      Bytes into = data[k].emplace_back(memory(bytes, impl_->options.phantom)).view();
      if (!into.empty()) exchange.receive(k, static_cast<std::uint16_t>(i), into);
    }
    descriptions.push_back(std::move(description));
  }
  GEARSHIFT_RETURN_IF_ERROR(exchange.finish());
  std::vector<StateEntry> entries(parameter_sizes.size());
  std::size_t merged = 0;
  for (std::size_t k = 0; k < shards.size(); ++k) {
    for (std::size_t i = 0; i < shards[k].size(); ++i) {
      merge(shards[k][i], descriptions[k].slices[i], std::as_const(data[k][i]).view(),
            parameter_sizes, entries);
      merged += data[k][i].size();
    }
  }
  if (merged > 0) impl_->group.scheduler().work(base::Work::kCopy, merged);
  return entries;
}

base::Status Client::store_state(const std::vector<StateEntry>& state) {
  GEARSHIFT_RETURN_IF_ERROR(impl_->usable);
  const auto& shards = impl_->layout().shards;
  const bool phantom = has_phantoms(state);
  std::vector<Share> shares;
  std::size_t copied = 0;
  for (const auto& slices : shards) {
    GEARSHIFT_ASSIGN_OR_RETURN(auto share, cut(slices, state, phantom));
    copied += share.data_bytes();
    shares.push_back(std::move(share));
  }
  if (copied > 0) impl_->group.scheduler().work(base::Work::kCopy, copied);
  Exchange exchange(*impl_, "store optimizer state");
  for (std::size_t k = 0; k < shards.size(); ++k) {
    exchange.receive_reply(k);
    const auto& description = shares[k].description;
    exchange.send(k, exchange.head(Kind::kStoreState), {description.data(), description.size()});
    for (std::uint32_t i = 0; i < shards[k].size(); ++i) {
      if (shares[k].data[i].empty()) continue;
      Head head = exchange.head(Kind::kStateData);
      head.slice = i;
      exchange.send(k, head, std::as_const(shares[k].data[i]).view());
    }
  }
  return exchange.finish();
}

base::Status Client::store_parameters(const std::vector<ConstBytes>& buckets) {
  GEARSHIFT_RETURN_IF_ERROR(impl_->usable);
  if (auto ok = impl_->check_buckets(buckets); !ok) return ok.error().within("store parameters");
  const auto& shards = impl_->layout().shards;
  Exchange exchange(*impl_, "store parameters");
  for (std::size_t k = 0; k < shards.size(); ++k) {
    if (shards[k].empty()) continue;  // nothing to send, so nothing would be answered
    exchange.receive_reply(k);
    for (std::uint32_t i = 0; i < shards[k].size(); ++i) {
      const Slice& slice = shards[k][i];
      Head head = exchange.head(Kind::kStoreParameters);
      head.slice = i;
      exchange.send(k, head, base::slice(buckets[slice.bucket], slice.bucket_offset, slice.bytes));
    }
  }
  return exchange.finish();
}

}  // namespace gearshift::ps
