#include "gearshift/ps/consistency.h"

#include <charconv>
#include <optional>
#include <vector>

namespace gearshift::ps {
namespace {

using base::Error;
using base::ErrorCode;

std::optional<int> to_int(std::string_view text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

/// "ssp(3)" -> {"ssp", "3"}; "buffered(4,bound=8)" -> {"buffered", "4", "bound=8"}.
std::vector<std::string> words_of(const std::string& text) {
  std::vector<std::string> words(1);
  for (const char c : text) {
    if (c == ' ') continue;
    if (c == '(' || c == ',') {
      words.emplace_back();
    } else if (c != ')') {
      words.back() += c;
    }
  }
  return words;
}

Error not_understood(const std::string& text) {
  return {ErrorCode::kInvalidArgument,
          "consistency '" + text +
              "' is not one of bsp, ssp(s), asp, buffered(m), buffered(m, bound=s)"};
}

}  // namespace

std::string Consistency::to_string() const {
  switch (kind) {
    case Kind::kBsp:
      return "bsp";
    case Kind::kSsp:
      return "ssp(" + std::to_string(bound) + ")";
    case Kind::kAsp:
      return "asp";
    case Kind::kBuffered:
      break;
  }
  const std::string limit = bound < 0 ? "" : ", bound=" + std::to_string(bound);
  return "buffered(" + std::to_string(buffer) + limit + ")";
}

base::Result<Consistency> Consistency::parse(const std::string& text) {
  const std::vector<std::string> words = words_of(text);
  const std::string& name = words[0];
  std::optional<Consistency> parsed;
  if (name == "bsp" && words.size() == 1) parsed = bsp();
  if (name == "asp" && words.size() == 1) parsed = asp();
  if (name == "ssp" && words.size() == 2) {
    if (auto s = to_int(words[1])) parsed = ssp(*s);
  }
  if (name == "buffered" && (words.size() == 2 || words.size() == 3)) {
    const auto m = to_int(words[1]);
    std::optional<int> s = -1;
    if (words.size() == 3) {
      s = words[2].starts_with("bound=") ? to_int(std::string_view(words[2]).substr(6))
                                         : std::nullopt;
    }
    if (m && s) parsed = buffered(*m, *s);
  }
  if (!parsed) return not_understood(text);
  GEARSHIFT_RETURN_IF_ERROR(parsed->validate());
  return *parsed;
}

base::Status Consistency::validate() const {
  if (kind == Kind::kSsp && bound < 0) {
    return Error(ErrorCode::kInvalidArgument, "SSP needs a bound of at least 0 steps");
  }
  if (kind == Kind::kBuffered && buffer < 1) {
    return Error(
        ErrorCode::kInvalidArgument,
        "a buffered server needs at least 1 gradient per update, not " + std::to_string(buffer));
  }
  return {};
}

}  // namespace gearshift::ps
