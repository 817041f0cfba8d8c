#include "strategy/server_orders.h"

#include "gearshift/base/serial.h"

namespace gearshift::strategy {
namespace {

void put_slice(base::Writer& writer, const ps::Slice& slice) {
  writer.put(slice.bucket).put(slice.dtype);
  writer.put(std::uint64_t{slice.bucket_offset}).put(std::uint64_t{slice.bytes});
  writer.put(static_cast<std::uint32_t>(slice.segments.size()));
  for (const ps::Segment& s : slice.segments) {
    writer.put(s.parameter).put(s.param_group).put(std::uint64_t{s.slice_offset});
    writer.put(std::uint64_t{s.parameter_offset}).put(std::uint64_t{s.size});
  }
}

ps::Slice get_slice(base::Reader& reader) {
  ps::Slice slice;
  slice.bucket = reader.get<std::uint32_t>();
  slice.dtype = reader.get<base::DType>();
  slice.bucket_offset = reader.get<std::uint64_t>();
  slice.bytes = reader.get<std::uint64_t>();
  for (auto n = reader.get<std::uint32_t>(); n > 0 && reader.ok(); --n) {
    ps::Segment s;
    s.parameter = reader.get<std::uint32_t>();
    s.param_group = reader.get<std::uint32_t>();
    s.slice_offset = reader.get<std::uint64_t>();
    s.parameter_offset = reader.get<std::uint64_t>();
    s.size = reader.get<std::uint64_t>();
    slice.segments.push_back(s);
  }
  return slice;
}

}  // namespace

std::vector<std::byte> pack_open(const OpenOrder& order) {
  const ps::ShardOptions& o = order.options;
  base::Writer writer;
  writer.put(order.model).put(order.first_step).put(order.report_commits);
  writer.put(order.phantom);
  writer.put(o.model).put(o.index).put(o.workers).put(o.at_once);
  writer.put(o.consistency.kind).put(o.consistency.bound).put(o.consistency.buffer);
  writer.put(std::string_view(o.optimizer.kind)).put(o.optimizer.param_groups);
  writer.put(static_cast<std::uint32_t>(o.optimizer.hyper_names.size()));
  for (const std::string& name : o.optimizer.hyper_names) writer.put(std::string_view(name));
  writer.put(o.lr_factor).put(o.clip_norm).put(o.divergence_factor);
  writer.put(static_cast<std::uint32_t>(o.slices.size()));
  for (const ps::Slice& slice : o.slices) put_slice(writer, slice);
  return writer.take();
}

base::Result<OpenOrder> unpack_open(base::ConstBytes bytes) {
  base::Reader reader(bytes);
  OpenOrder order;
  order.model = reader.get<std::uint16_t>();
  order.first_step = reader.get<std::int64_t>();
  order.report_commits = reader.get<bool>();
  order.phantom = reader.get<bool>();
  ps::ShardOptions& o = order.options;
  o.model = reader.get<std::uint16_t>();
  o.index = reader.get<int>();
  o.workers = reader.get<int>();
  o.at_once = reader.get<int>();
  o.consistency.kind = reader.get<ps::Consistency::Kind>();
  o.consistency.bound = reader.get<int>();
  o.consistency.buffer = reader.get<int>();
  o.optimizer.kind = reader.get_string();
  o.optimizer.param_groups = reader.get<std::uint32_t>();
  for (auto n = reader.get<std::uint32_t>(); n > 0 && reader.ok(); --n) {
    o.optimizer.hyper_names.push_back(reader.get_string());
  }
  o.lr_factor = reader.get<double>();
  o.clip_norm = reader.get<double>();
  o.divergence_factor = reader.get<double>();
  for (auto n = reader.get<std::uint32_t>(); n > 0 && reader.ok(); --n) {
    o.slices.push_back(get_slice(reader));
  }
  GEARSHIFT_RETURN_IF_ERROR(reader.status("order to a dedicated server"));
  return order;
}

std::vector<std::byte> pack_news(const ps::CommitInfo& info) {
  base::Writer writer;
  writer.put(info.worker).put(info.step).put(info.loss).put(info.samples);
  writer.put(info.mean_loss).put(info.epoch).put(info.staleness).put(info.highest_step);
  writer.put(info.earliest_epoch);
  return writer.take();
}

base::Result<ps::CommitInfo> unpack_news(base::ConstBytes bytes) {
  base::Reader reader(bytes);
  ps::CommitInfo info;
  info.worker = reader.get<int>();
  info.step = reader.get<std::int64_t>();
  info.loss = reader.get<double>();
  info.samples = reader.get<double>();
  info.mean_loss = reader.get<double>();
  info.epoch = reader.get<std::int64_t>();
  info.staleness = reader.get<std::int64_t>();
  info.highest_step = reader.get<std::int64_t>();
  info.earliest_epoch = reader.get<std::int64_t>();
  GEARSHIFT_RETURN_IF_ERROR(reader.status("commit news"));
  return info;
}

}  // namespace gearshift::strategy
