#include "sim/units.h"

#include <array>
#include <charconv>
#include <cmath>
#include <optional>
#include <utility>

namespace gearshift::sim {
namespace {

using base::Error;
using base::ErrorCode;

struct Quantity {
  double number = 0;
  std::string_view unit;
};

std::string_view trim(std::string_view text) {
  const auto begin = text.find_first_not_of(" \t");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

std::optional<Quantity> split(std::string_view text) {
  text = trim(text);
  Quantity quantity;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, quantity.number);
  if (error != std::errc()) return std::nullopt;
  quantity.unit = trim({rest, static_cast<std::size_t>(end - rest)});
  return quantity;
}

/// The factor of the prefix that `unit` begins with, which is taken off; 1 without one.
double take_prefix(std::string_view& unit) {
  static constexpr std::string_view kPrefixes = "kKmMgGtT";
  if (unit.empty()) return 1;
  const auto found = kPrefixes.find(unit.front());
  if (found == std::string_view::npos) return 1;
  unit.remove_prefix(1);
  const bool binary = unit.starts_with('i');
  if (binary) unit.remove_prefix(1);
  return std::pow(binary ? 1024.0 : 1000.0, static_cast<double>(found / 2 + 1));
}

Error no_rate(std::string_view text) {
  return {ErrorCode::kInvalidArgument,
          "\"" + std::string(text) +
              "\" is no rate: write bits per second (\"1 Gbit/s\", \"100M\") or bytes per second "
              "(\"119.6 MB/s\")"};
}

}  // namespace

base::Result<double> parse_rate(std::string_view text) {
  const auto quantity = split(text);
  if (!quantity) return no_rate(text);
  std::string_view unit = quantity->unit;
  const double scale = take_prefix(unit);
  if (unit == "bps" || unit == "Bps") {
    return Error(
        ErrorCode::kInvalidArgument,
        "\"" + std::string(text) + "\" means bits to some and bytes to others: write bit/s or B/s");
  }
  const double number = quantity->number * scale;
  if (unit == "B/s") return number;
  const bool prefix_alone = unit.empty() && !quantity->unit.empty();
  if (prefix_alone || unit == "bit" || unit == "bit/s" || unit == "b/s") return number / 8;
  return no_rate(text);
}

base::Result<double> parse_duration(std::string_view text) {
  // Divisions, so that "190 ms" is the number nearest to 0.19.
  struct Unit {
    std::string_view name;
    double times;
    double over;
  };
  static constexpr std::array<Unit, 9> kUnits{{{"ns", 1, 1e9},
                                               {"us", 1, 1e6},
                                               {"\u00b5s", 1, 1e6},
                                               {"\u03bcs", 1, 1e6},
                                               {"ms", 1, 1e3},
                                               {"s", 1, 1},
                                               {"min", 60, 1},
                                               {"h", 3600, 1},
                                               {"d", 86400, 1}}};
  if (const auto quantity = split(text)) {
    for (const Unit& unit : kUnits) {
      if (quantity->unit == unit.name) return quantity->number * unit.times / unit.over;
    }
  }
  return Error(ErrorCode::kInvalidArgument,
               "\"" + std::string(text) +
                   "\" is no time: write a number with ns, us, ms, s, min, h or d (\"25 us\")");
}

std::string complaint(std::string_view noun, double value, Bound bound, std::string_view shown,
                      const Limits& limits) {
  std::string rule;
  if (!std::isfinite(value)) {
    rule = "finite";
  } else if (bound == Bound::kPositive && value <= 0) {
    rule = "positive";
  } else if (value < 0) {
    return std::string(noun) + " must not be negative, this is " + std::string(shown);
  } else if (value > limits.most) {
    rule = "at most " + sim::shown(limits.most) + std::string(limits.unit);
  } else if (value > 0 && value < limits.least) {
    rule = "at least " + sim::shown(limits.least) + std::string(limits.unit);
  }
  if (rule.empty()) return {};
  return std::string(noun) + " must be " + rule + ", this is " + std::string(shown);
}

std::string shown(double value) {
  std::array<char, 32> text{};
  const auto [end, error] = std::to_chars(text.data(), text.data() + text.size(), value);
  return {text.data(), end};
}

}  // namespace gearshift::sim
