#include "ps/state_codec.h"

#include "gearshift/base/serial.h"
#include "ps/layout_check.h"

namespace gearshift::ps {
namespace {

SegmentState get_segment(base::Reader& in) {
  SegmentState state;
  const auto tensors = in.get<std::uint16_t>();
  for (std::uint16_t i = 0; i < tensors && in.ok(); ++i) state.tensors.push_back(in.get_string());
  const auto scalars = in.get<std::uint16_t>();
  for (std::uint16_t i = 0; i < scalars && in.ok(); ++i) {
    std::string name = in.get_string();
    state.scalars.insert_or_assign(std::move(name), in.get<double>());
  }
  return state;
}

}  // namespace

std::size_t StateDescription::data_bytes(const std::vector<Slice>& layout,
                                         std::size_t slice) const {
  std::size_t bytes = 0;
  for (std::size_t s = 0; s < slices[slice].size(); ++s) {
    bytes += slices[slice][s].tensors.size() *
             bytes_of_segment(layout[slice], layout[slice].segments[s]);
  }
  return bytes;
}

std::vector<std::byte> encode(const StateDescription& description) {
  base::Writer out;
  for (const auto& segments : description.slices) {
    for (const SegmentState& state : segments) {
      out.put(static_cast<std::uint16_t>(state.tensors.size()));
      for (const std::string& name : state.tensors) out.put(std::string_view(name));
      out.put(static_cast<std::uint16_t>(state.scalars.size()));
      for (const auto& [name, value] : state.scalars) out.put(std::string_view(name)).put(value);
    }
  }
  return out.take();
}

base::Result<StateDescription> decode_description(base::ConstBytes bytes,
                                                  const std::vector<Slice>& layout) {
  base::Reader in(bytes);
  StateDescription description;
  for (const Slice& slice : layout) {
    auto& segments = description.slices.emplace_back();
    for (std::size_t s = 0; s < slice.segments.size(); ++s) segments.push_back(get_segment(in));
    GEARSHIFT_RETURN_IF_ERROR(in.status("description of optimizer state"));
  }
  if (!in.rest().empty()) {
    return base::Error(base::ErrorCode::kProtocol,
                       "description of optimizer state: of another layout");
  }
  return description;
}

}  // namespace gearshift::ps
