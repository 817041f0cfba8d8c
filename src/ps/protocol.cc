#include "ps/protocol.h"

#include <span>

#include "gearshift/base/serial.h"

namespace gearshift::ps {
namespace {

using base::Error;
using base::ErrorCode;

template <typename T>
void put_all(base::Writer& out, const std::vector<T>& items) {
  out.put_bytes(base::bytes_of(std::span<const T>(items)));
}

/// Sizes come from the peer: nothing is allocated beyond what the message itself holds.
template <typename T>
std::vector<T> get_all(base::Reader& in) {
  const base::ConstBytes bytes = in.get_bytes();
  std::vector<T> items(bytes.size() / sizeof(T));
  if (!items.empty()) std::memcpy(items.data(), bytes.data(), items.size() * sizeof(T));
  return items;
}

void put_bits(base::Writer& out, const std::vector<bool>& bits) {
  std::vector<std::uint8_t> packed((bits.size() + 7) / 8);
  for (std::size_t i = 0; i < bits.size(); ++i) {
    if (bits[i]) packed[i / 8] = static_cast<std::uint8_t>(packed[i / 8] | (1U << (i % 8)));
  }
  out.put(static_cast<std::uint32_t>(bits.size()));
  put_all(out, packed);
}

base::Result<std::vector<bool>> get_bits(base::Reader& in) {
  const auto count = in.get<std::uint32_t>();
  const auto packed = get_all<std::uint8_t>(in);
  if (packed.size() != (std::size_t{count} + 7) / 8) {
    return Error(ErrorCode::kProtocol, "a set of parameters has the wrong size");
  }
  std::vector<bool> bits(count);
  for (std::size_t i = 0; i < bits.size(); ++i) bits[i] = (packed[i / 8] >> (i % 8) & 1U) != 0;
  return bits;
}

}  // namespace

std::vector<std::byte> encode(const Head& head) {
  base::Writer out(sizeof(Head));
  out.put(head.kind).put(head.request).put(head.slice).put(head.attempt).put(head.step);
  return out.take();
}

base::Result<Head> decode_head(base::ConstBytes bytes) {
  base::Reader in(bytes);
  Head head;
  const auto kind = in.get<std::uint8_t>();
  head.kind = static_cast<Kind>(kind);
  head.request = in.get<std::uint32_t>();
  head.slice = in.get<std::uint32_t>();
  head.attempt = in.get<std::uint64_t>();
  head.step = in.get<std::int64_t>();
  GEARSHIFT_RETURN_IF_ERROR(in.status("head of a request"));
  if (!in.rest().empty() || kind < static_cast<std::uint8_t>(Kind::kStage) ||
      kind > static_cast<std::uint8_t>(Kind::kStoreParameters)) {
    return Error(ErrorCode::kProtocol, "unknown request " + std::to_string(kind));
  }
  return head;
}

std::vector<std::byte> encode(const CommitRecord& r) {
  base::Writer out;
  out.put(r.step).put(r.epoch).put(r.base_version).put(r.samples).put(r.loss);
  out.put(r.gradient_factor)
      .put(r.clip_norm)
      .put(static_cast<std::uint8_t>(r.skip))
      .put(r.last_attempt);
  put_all(out, r.attempts);
  put_bits(out, r.present.bits());
  put_all(out, r.hypers);
  return out.take();
}

base::Result<CommitRecord> decode_commit(base::ConstBytes bytes) {
  base::Reader in(bytes);
  CommitRecord r;
  r.step = in.get<std::int64_t>();
  r.epoch = in.get<std::int64_t>();
  r.base_version = in.get<std::int64_t>();
  r.samples = in.get<double>();
  r.loss = in.get<double>();
  r.gradient_factor = in.get<double>();
  r.clip_norm = in.get<double>();
  r.skip = in.get<std::uint8_t>() != 0;
  r.last_attempt = in.get<std::uint64_t>();
  r.attempts = get_all<std::uint64_t>(in);
  GEARSHIFT_ASSIGN_OR_RETURN(auto bits, get_bits(in));
  r.present = Presence(std::move(bits));
  r.hypers = get_all<double>(in);
  GEARSHIFT_RETURN_IF_ERROR(in.status("commit"));
  return r;
}

}  // namespace gearshift::ps
