#include "strategy/text_options.h"

#include <charconv>
#include <utility>

namespace gearshift::strategy {
namespace {

constexpr std::string_view kSpace = " \t\n\r\f\v";
constexpr std::string_view kDigits = "0123456789";
constexpr double kMost = 1e9;

/// At the commas that stand in no parentheses themselves.
std::vector<std::string> split(std::string_view inside) {
  std::vector<std::string> parts;
  if (inside.empty()) return parts;
  int depth = 0;
  std::size_t from = 0;
  for (std::size_t i = 0; i <= inside.size(); ++i) {
    if (i < inside.size() && inside[i] == '(') ++depth;
    if (i < inside.size() && inside[i] == ')') --depth;
    if (i < inside.size() && (inside[i] != ',' || depth != 0)) continue;
    parts.emplace_back(stripped(inside.substr(from, i - from)));
    from = i + 1;
  }
  return parts;
}

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ", ") + word;
  return text;
}

}  // namespace

std::string_view stripped(std::string_view text) {
  const std::size_t first = text.find_first_not_of(kSpace);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kSpace) - first + 1);
}

std::optional<int> whole_number(std::string_view text) {
  const bool digits = text.find_first_not_of(kDigits) == std::string_view::npos;
  if (text.empty() || text.size() > 9 || !digits) return std::nullopt;
  int value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

std::optional<double> decimal_number(std::string_view text) {
  // Neither "inf" nor "nan" nor a sign.
  if (text.empty() || (text[0] != '.' && kDigits.find(text[0]) == std::string_view::npos)) {
    return std::nullopt;
  }
  double value = 0;
  const char* const end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data(), end, value);
  if (parsed.ec != std::errc() || parsed.ptr != end || value > kMost) return std::nullopt;
  return value;
}

TextOptions::TextOptions(std::string what, std::string_view inside)
    : what_(std::move(what)), arguments_(split(inside)) {}

std::optional<std::string> TextOptions::word(const std::string& key) {
  known_.push_back(key);
  std::optional<std::string> found;
  for (auto argument = arguments_.begin(); argument != arguments_.end();) {
    const std::string_view text = *argument;
    const std::size_t equals = text.find('=');
    if (equals == std::string_view::npos || stripped(text.substr(0, equals)) != key) {
      ++argument;
      continue;
    }
    if (found) fail(what_ + ": " + key + " is given twice");
    found = std::string(stripped(text.substr(equals + 1)));
    argument = arguments_.erase(argument);
  }
  return found;
}

std::optional<std::string> TextOptions::value() {
  for (auto argument = arguments_.begin(); argument != arguments_.end(); ++argument) {
    if (argument->find('=') != std::string::npos) continue;
    std::string found = *argument;
    arguments_.erase(argument);
    return found;
  }
  return std::nullopt;
}

std::optional<int> TextOptions::whole(const std::string& key, int least) {
  const std::optional<std::string> text = word(key);
  if (!text) return std::nullopt;
  const std::optional<int> value = whole_number(*text);
  if (!value || *value < least) {
    fail(what_ + ": " + key + "=" + *text + " is no whole number from " + std::to_string(least) +
         " to a billion");
  }
  return value;
}

std::optional<double> TextOptions::number(const std::string& key, bool may_be_zero,
                                          std::string_view unset) {
  const std::optional<std::string> text = word(key);
  if (!text || (!unset.empty() && *text == unset)) return std::nullopt;
  const std::optional<double> value = decimal_number(*text);
  if (!value || (*value == 0 && !may_be_zero)) {
    fail(what_ + ": " + key + "=" + *text + " is no " + (may_be_zero ? "" : "positive ") +
         "number up to a billion" + (unset.empty() ? "" : ", nor " + std::string(unset)));
  }
  return value;
}

void TextOptions::fail(const std::string& message) {
  if (!error_) error_ = base::Error(base::ErrorCode::kInvalidArgument, message);
}

base::Status TextOptions::status() const { return error_ ? base::Status(*error_) : base::Status(); }

base::Status TextOptions::finish() const {
  if (error_ || arguments_.empty()) return status();
  return base::Error(
      base::ErrorCode::kInvalidArgument,
      what_ + ": unknown option '" + arguments_.front() + "'; there are: " + joined(known_));
}

}  // namespace gearshift::strategy
