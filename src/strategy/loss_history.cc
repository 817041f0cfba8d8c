#include "strategy/loss_history.h"

#include "gearshift/base/serial.h"

namespace gearshift::strategy {

std::vector<std::byte> LossHistory::pack() const {
  base::Writer writer;
  writer.put(latest_).put(static_cast<std::uint32_t>(finished_.size()));
  for (const double loss : finished_) writer.put(loss);
  writer.put(static_cast<std::uint32_t>(open_.size()));
  for (const auto& [epoch, sums] : open_) writer.put(epoch).put(sums.loss).put(sums.samples);
  return writer.take();
}

base::Status LossHistory::unpack(const std::vector<std::byte>& bytes) {
  base::Reader reader(bytes);
  LossHistory read;
  read.latest_ = reader.get<double>();
  for (auto n = reader.get<std::uint32_t>(); n > 0 && reader.ok(); --n) {
    read.finished_.push_back(reader.get<double>());
  }
  for (auto n = reader.get<std::uint32_t>(); n > 0 && reader.ok(); --n) {
    const auto epoch = reader.get<std::int64_t>();
    Sums& sums = read.open_[epoch];
    sums.loss = reader.get<double>();
    sums.samples = reader.get<double>();
  }
  GEARSHIFT_RETURN_IF_ERROR(reader.status("loss history"));
  *this = std::move(read);
  return {};
}

}  // namespace gearshift::strategy
