#pragma once

#include <array>
#include <concepts>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gearshift/base/result.h"
#include "sim/units.h"

#define TOML_EXCEPTIONS 0
#define TOML_ENABLE_FORMATTERS 0
#include <toml++/toml.h>

namespace gearshift::sim {

/// A TOML file that is being read, and the first error found in it: "x.toml:12: hosts[2].zone: …".
///
/// Readers go on after an error, with what they have; who reads a file asks `error` at its end.
/// Not thread-safe. Errors: kInvalidArgument.
class TomlFile {
 public:
  /// `keys` are those of the file itself, outside of any table.
  TomlFile(std::string name, std::string_view text, std::vector<std::string> keys);
  TomlFile(const TomlFile&) = delete;
  TomlFile& operator=(const TomlFile&) = delete;

  const std::string& name() const { return name_; }
  const toml::table& root() const { return root_; }
  const std::vector<std::string>& keys() const { return keys_; }
  const std::optional<base::Error>& error() const { return error_; }
  /// Ignored after the first time.
  void fail(std::int64_t line, const std::string& key, const std::string& what);

 private:
  std::string name_;
  std::vector<std::string> keys_;
  toml::table root_;
  std::optional<base::Error> error_;
};

/// One table of a file. Each method reads a key, if it is there, leaves `out` alone if it is not or
/// if its value is wrong, and returns whether it is there.
class TomlTable {
 public:
  /// `path` is what errors put before a key: "hosts[2]"; "" for the file itself.
  TomlTable(TomlFile& file, const toml::table& table, std::string path);

  bool has(std::string_view key) const { return table_->contains(key); }
  bool text(const std::string& key, std::string& out);
  bool number(const std::string& key, double& out);
  /// Bytes per second, positive: a number, or text with a unit (units.h).
  bool rate(const std::string& key, double& out);
  /// Seconds: a number, or text with a unit.
  bool duration(const std::string& key, double& out);
  bool numbers(const std::string& key, std::vector<double>& out);
  bool integers(const std::string& key, std::vector<std::int64_t>& out);

  template <std::integral Integer>
  bool integer(const std::string& key, Integer& out, std::int64_t least,
               std::int64_t most = std::numeric_limits<Integer>::max()) {
    const auto value = integer_within(key, least, most);
    if (value) out = static_cast<Integer>(*value);
    return has(key);
  }

  template <typename Value, std::size_t N>
  bool choice(const std::string& key, Value& out,
              const std::array<std::pair<std::string_view, Value>, N>& choices) {
    std::string word;
    if (!text(key, word)) return false;
    std::vector<std::string> words;
    for (const auto& [name, value] : choices) {
      words.emplace_back(name);
      if (name == word) {
        out = value;
        return true;
      }
    }
    fail_choice(key, word, words);
    return true;
  }

  std::optional<TomlTable> table(const std::string& key);
  /// An array of tables, `[[key]]` or inline; empty when there is none.
  std::vector<TomlTable> tables(const std::string& key);

  /// Refuses the table without `key`.
  void require(const std::string& key);
  /// Refuses `key`, which makes sense only `when`, unless it `makes_sense`.
  void only(bool makes_sense, const std::string& key, const std::string& when);
  /// Refuses every key that was not asked for; call it last.
  void no_other_keys();
  /// An error of `key`, at its line if it is there, else at the table's. "shape[1]" is in "shape".
  void fail(const std::string& key, const std::string& what);

 private:
  const toml::node* find(const std::string& key);
  std::string path_of(const std::string& key) const;
  void fail_at(const toml::node& node, const std::string& key, const std::string& what);
  void fail_type(const toml::node& node, const std::string& key, const std::string& wanted);
  void fail_choice(const std::string& key, const std::string& word,
                   const std::vector<std::string>& words);
  std::optional<std::int64_t> integer_within(const std::string& key, std::int64_t least,
                                             std::int64_t most);
  std::optional<double> quantity(const std::string& key, const std::string& noun, Bound bound,
                                 const Limits& limits,
                                 base::Result<double> (*parse)(std::string_view));
  const toml::array* array(const std::string& key, const std::string& wanted);

  TomlFile* file_;
  const toml::table* table_;
  std::string path_;
  std::vector<std::string> asked_;
};

/// The whole of a file. Errors: kIo.
base::Result<std::string> read_file(const std::string& path);

/// "four-hosts" of "clusters/four-hosts.toml".
std::string stem_of(const std::string& path);

}  // namespace gearshift::sim
