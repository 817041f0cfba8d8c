#include "sim/toml_reader.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>

#include "sim/suggest.h"

namespace gearshift::sim {
namespace {

using base::Error;
using base::ErrorCode;

std::int64_t line_of(const toml::source_region& source) { return source.begin.line; }

/// A value as a message shows it.
std::string describe(const toml::node& node) {
  if (const auto* text = node.as_string()) return "\"" + text->get() + "\"";
  if (const auto* integer = node.as_integer()) return std::to_string(integer->get());
  if (const auto* number = node.as_floating_point()) return shown(number->get());
  if (const auto* flag = node.as_boolean()) return flag->get() ? "true" : "false";
  if (node.is_array()) return "an array";
  return node.is_table() ? "a table" : "a date or time";
}

/// TOML has integers and floats; a number is either.
std::optional<double> number_in(const toml::node& node) {
  if (const auto* integer = node.as_integer()) return static_cast<double>(integer->get());
  if (const auto* number = node.as_floating_point()) return number->get();
  return std::nullopt;
}

std::string element(const std::string& key, std::size_t i) {
  return key + "[" + std::to_string(i) + "]";
}

}  // namespace

TomlFile::TomlFile(std::string name, std::string_view text, std::vector<std::string> keys)
    : name_(std::move(name)), keys_(std::move(keys)) {
  toml::parse_result parsed = toml::parse(text);
  if (parsed) {
    root_ = std::move(parsed).table();
    return;
  }
  const toml::source_position at = parsed.error().source().begin;
  error_ = Error(ErrorCode::kInvalidArgument, name_ + ":" + std::to_string(at.line) + ":" +
                                                  std::to_string(at.column) + ": " +
                                                  std::string(parsed.error().description()));
}

void TomlFile::fail(std::int64_t line, const std::string& key, const std::string& what) {
  if (error_) return;
  // An empty file has no position.
  error_ = Error(ErrorCode::kInvalidArgument, name_ + ":" +
                                                  std::to_string(std::max<std::int64_t>(1, line)) +
                                                  ": " + (key.empty() ? "" : key + ": ") + what);
}

TomlTable::TomlTable(TomlFile& file, const toml::table& table, std::string path)
    : file_(&file), table_(&table), path_(std::move(path)) {}

const toml::node* TomlTable::find(const std::string& key) {
  asked_.push_back(key);
  return table_->get(key);
}

std::string TomlTable::path_of(const std::string& key) const {
  return path_.empty() || key.empty() ? path_ + key : path_ + "." + key;
}

void TomlTable::fail_at(const toml::node& node, const std::string& key, const std::string& what) {
  file_->fail(line_of(node.source()), path_of(key), what);
}

void TomlTable::fail(const std::string& key, const std::string& what) {
  const toml::node* node = table_->get(std::string_view(key).substr(0, key.find('[')));
  fail_at(node != nullptr ? *node : *table_, key, what);
}

void TomlTable::fail_type(const toml::node& node, const std::string& key,
                          const std::string& wanted) {
  fail_at(node, key, "must be " + wanted + ", this is " + describe(node));
}

void TomlTable::fail_choice(const std::string& key, const std::string& word,
                            const std::vector<std::string>& words) {
  fail(key, "must be one of " + quoted_list(words) + ", this is \"" + word + "\"");
}

bool TomlTable::text(const std::string& key, std::string& out) {
  const toml::node* node = find(key);
  if (node == nullptr) return false;
  if (const auto* text = node->as_string()) {
    out = text->get();
  } else {
    fail_type(*node, key, "a text");
  }
  return true;
}

std::optional<std::int64_t> TomlTable::integer_within(const std::string& key, std::int64_t least,
                                                      std::int64_t most) {
  const toml::node* node = find(key);
  if (node == nullptr) return std::nullopt;
  const auto* integer = node->as_integer();
  if (integer == nullptr) {
    fail_type(*node, key, "an integer");
    return std::nullopt;
  }
  const std::int64_t value = integer->get();
  if (value >= least && value <= most) return value;
  fail_at(*node, key,
          value < least
              ? "must be at least " + std::to_string(least) + ", this is " + std::to_string(value)
              : "must be at most " + std::to_string(most) + ", this is " + std::to_string(value));
  return std::nullopt;
}

bool TomlTable::number(const std::string& key, double& out) {
  const toml::node* node = find(key);
  if (node == nullptr) return false;
  if (const auto number = number_in(*node)) {
    out = *number;
  } else {
    fail_type(*node, key, "a number");
  }
  return true;
}

std::optional<double> TomlTable::quantity(const std::string& key, const std::string& noun,
                                          Bound bound, const Limits& limits,
                                          base::Result<double> (*parse)(std::string_view)) {
  const toml::node* node = find(key);
  if (node == nullptr) return std::nullopt;
  std::optional<double> value = number_in(*node);
  if (const auto* text = node->as_string()) {
    const auto parsed = parse(text->get());
    if (!parsed) {
      fail_at(*node, key, parsed.error().message);
      return std::nullopt;
    }
    value = *parsed;
  }
  if (!value) {
    fail_type(*node, key, noun + ", a number or a text with a unit");
    return std::nullopt;
  }
  const std::string wrong = complaint(noun, *value, bound, describe(*node), limits);
  if (wrong.empty()) return value;
  fail_at(*node, key, wrong);
  return std::nullopt;
}

bool TomlTable::rate(const std::string& key, double& out) {
  out = quantity(key, "a rate", Bound::kPositive, kRateLimits, parse_rate).value_or(out);
  return has(key);
}

bool TomlTable::duration(const std::string& key, double& out) {
  out = quantity(key, "a time", Bound::kNotNegative, kTimeLimits, parse_duration).value_or(out);
  return has(key);
}

const toml::array* TomlTable::array(const std::string& key, const std::string& wanted) {
  const toml::node* node = find(key);
  if (node == nullptr) return nullptr;
  if (!node->is_array()) fail_type(*node, key, "an array of " + wanted);
  return node->as_array();
}

bool TomlTable::numbers(const std::string& key, std::vector<double>& out) {
  const toml::array* values = array(key, "numbers");
  if (values == nullptr) return has(key);
  out.clear();
  for (const toml::node& node : *values) {
    const auto number = number_in(node);
    if (!number) fail_type(node, element(key, out.size()), "a number");
    out.push_back(number.value_or(0));
  }
  return true;
}

bool TomlTable::integers(const std::string& key, std::vector<std::int64_t>& out) {
  const toml::array* values = array(key, "integers");
  if (values == nullptr) return has(key);
  out.clear();
  for (const toml::node& node : *values) {
    const auto* integer = node.as_integer();
    if (integer == nullptr) fail_type(node, element(key, out.size()), "an integer");
    out.push_back(integer == nullptr ? 0 : integer->get());
  }
  return true;
}

std::optional<TomlTable> TomlTable::table(const std::string& key) {
  const toml::node* node = find(key);
  if (node == nullptr) return std::nullopt;
  if (const toml::table* table = node->as_table()) return TomlTable(*file_, *table, path_of(key));
  fail_type(*node, key, "a table, [" + key + "]");
  return std::nullopt;
}

std::vector<TomlTable> TomlTable::tables(const std::string& key) {
  std::vector<TomlTable> found;
  const toml::array* all = array(key, "tables, [[" + key + "]]");
  if (all == nullptr) return found;
  for (std::size_t i = 0; i < all->size(); ++i) {
    const toml::node& node = *all->get(i);
    if (const toml::table* table = node.as_table()) {
      found.emplace_back(*file_, *table, path_of(element(key, i)));
    } else {
      fail_type(node, element(key, i), "a table");
    }
  }
  return found;
}

void TomlTable::require(const std::string& key) {
  if (!has(key)) fail_at(*table_, key, "is missing");
}

void TomlTable::only(bool makes_sense, const std::string& key, const std::string& when) {
  if (has(key) && !makes_sense) fail(key, "makes sense only " + when);
}

void TomlTable::no_other_keys() {
  for (const auto& [key, node] : *table_) {
    const std::string name(key.str());
    if (std::find(asked_.begin(), asked_.end(), name) != asked_.end()) continue;
    const auto& top = file_->keys();
    std::string hint = did_you_mean(name, asked_);
    if (hint.empty() && !path_.empty() && std::find(top.begin(), top.end(), name) != top.end()) {
      hint = "; \"" + name + "\" belongs to the file itself: move it above the first [table]";
    } else if (hint.empty()) {
      hint = "; the keys here are " + quoted_list(asked_);
    }
    file_->fail(line_of(key.source()), path_of(name), "unknown key" + hint);
  }
}

base::Result<std::string> read_file(const std::string& path) {
  const auto fail = [&] {
    return Error(ErrorCode::kIo, "cannot read " + path + ": " + std::strerror(errno));
  };
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"),
                                                             &std::fclose);
  if (file == nullptr) return fail();
  std::string text;
  std::array<char, 65536> part{};
  while (const std::size_t n = std::fread(part.data(), 1, part.size(), file.get())) {
    text.append(part.data(), n);
  }
  if (std::ferror(file.get()) != 0) return fail();
  return text;
}

std::string stem_of(const std::string& path) { return std::filesystem::path(path).stem().string(); }

}  // namespace gearshift::sim
