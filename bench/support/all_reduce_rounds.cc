#include "support/all_reduce_rounds.h"

#include <array>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "support/computing.h"

namespace gearshift::bench {
namespace {

constexpr std::size_t kPeriod = 7;  // odd, so that no block of a power of two repeats

/// Bits of a whole number from 1 to 2048 as float16.
std::uint16_t half_bits(int value) {
  const int exponent = std::ilogb(static_cast<double>(value));
  const int fraction = (value << (10 - exponent)) & 0x3ff;
  return static_cast<std::uint16_t>((exponent + 15) << 10 | fraction);
}

/// One period of `scale`, 2·scale, … as bits of the type.
template <typename Bits>
std::array<Bits, kPeriod> pattern(Element element, int scale) {
  std::array<Bits, kPeriod> bits{};
  for (std::size_t i = 0; i < kPeriod; ++i) {
    const int value = static_cast<int>(i + 1) * scale;
    const auto wide = std::bit_cast<std::uint32_t>(static_cast<float>(value));
    bits[i] = static_cast<Bits>(element == Element::kFloat32   ? wide
                                : element == Element::kFloat16 ? half_bits(value)
                                                               : wide >> 16);
  }
  return bits;
}

template <typename Bits>
void fill_with(std::byte* data, std::size_t bytes, Element element, int scale) {
  const auto bits = pattern<Bits>(element, scale);
  auto* out = reinterpret_cast<Bits*>(data);
  const std::size_t count = bytes / sizeof(Bits);
  for (std::size_t i = 0, phase = 0; i < count; ++i, phase = phase + 1 == kPeriod ? 0 : phase + 1) {
    out[i] = bits[phase];
  }
}

template <typename Bits>
std::string check_with(const std::byte* data, std::size_t bytes, Element element, int scale) {
  const auto bits = pattern<Bits>(element, scale);
  const auto* in = reinterpret_cast<const Bits*>(data);
  const std::size_t count = bytes / sizeof(Bits);
  for (std::size_t i = 0, phase = 0; i < count; ++i, phase = phase + 1 == kPeriod ? 0 : phase + 1) {
    if (in[i] == bits[phase]) continue;
    return "element " + std::to_string(i) + " of " + std::to_string(count) + " has bits " +
           std::to_string(in[i]) + " instead of " + std::to_string(bits[phase]);
  }
  return {};
}

/// One all-reduce of known numbers; says what is wrong with the result.
std::string checked_all_reduce(Subject& subject, std::byte* data, std::size_t bytes,
                               Element element, int rank, int ranks) {
  fill(data, bytes, element, rank);
  subject.all_reduce(data, bytes);
  return check_sum(data, bytes, element, ranks);
}

}  // namespace

Element element_named(const std::string& name) {
  if (name == "float32") return Element::kFloat32;
  if (name == "float16") return Element::kFloat16;
  if (name == "bfloat16") return Element::kBFloat16;
  throw std::invalid_argument("--dtype: float32, float16 or bfloat16, not " + name);
}

std::size_t size_of(Element element) { return element == Element::kFloat32 ? 4 : 2; }

void fill(std::byte* data, std::size_t bytes, Element element, int rank) {
  if (element == Element::kFloat32) {
    fill_with<std::uint32_t>(data, bytes, element, rank + 1);
  } else {
    fill_with<std::uint16_t>(data, bytes, element, rank + 1);
  }
}

std::string check_sum(const std::byte* data, std::size_t bytes, Element element, int ranks) {
  const int scale = ranks * (ranks + 1) / 2;
  return element == Element::kFloat32 ? check_with<std::uint32_t>(data, bytes, element, scale)
                                      : check_with<std::uint16_t>(data, bytes, element, scale);
}

void serve_all_reduce(Gate& gate, Subject& subject, Element element, int rank, int ranks) {
  using Clock = std::chrono::steady_clock;
  while (const auto order = gate.next()) {
    const std::size_t bytes = order->number("bytes", 1 << 20) / size_of(element) * size_of(element);
    const std::size_t batches = order->number("batches", 5);
    const std::size_t operations = order->number("operations", 10);
    std::byte* data = subject.memory(bytes);
    const Computing beside(order->number("computing", 0));
    Report report;
    report.problem = checked_all_reduce(subject, data, bytes, element, rank, ranks);
    // Zeros stay zeros: no overflow, and no subnormal numbers, which would take longer.
    std::memset(data, 0, bytes);
    subject.all_reduce(data, bytes);
    for (std::size_t batch = 0; batch < batches; ++batch) {
      const auto begin = Clock::now();
      for (std::size_t i = 0; i < operations; ++i) subject.all_reduce(data, bytes);
      const std::chrono::duration<double> elapsed = Clock::now() - begin;
      report.seconds.push_back(elapsed.count() / static_cast<double>(operations));
    }
    if (report.problem.empty()) {
      report.problem = checked_all_reduce(subject, data, bytes, element, rank, ranks);
    } else {
      subject.all_reduce(data, bytes);  // as the others do
    }
    if (order->number("explain", 0) != 0) report.note = subject.explain(bytes);
    report.operations = batches * operations + 3;
    gate.report(report);
  }
}

}  // namespace gearshift::bench
