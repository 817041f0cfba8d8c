#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gearshift/base/result.h"

namespace gearshift::strategy {

/// Without the white space around it.
std::string_view stripped(std::string_view text);

/// The options in the text of a strategy: "3, shards=2" of "ps:ssp(3, shards=2)".
///
/// Each method removes `key=value`, if it is there, and reads the value. The first error is kept,
/// and `finish` returns it. Not thread-safe.
class TextOptions {
 public:
  TextOptions(std::string what, std::string_view inside);

  /// At most 10^9.
  std::optional<int> whole(const std::string& key, int least);
  /// At most 10^9. Nothing, too, if `unset` stands there, a word for the default.
  std::optional<double> number(const std::string& key, bool may_be_zero,
                               std::string_view unset = {});
  std::optional<std::string> word(const std::string& key);
  /// The first argument without a key.
  std::optional<std::string> value();
  /// What is left.
  const std::vector<std::string>& rest() const { return arguments_; }
  void fail(const std::string& message);
  /// The first error, or that something is left over.
  base::Status finish() const;
  /// The first error.
  base::Status status() const;

 private:
  std::string what_;
  std::vector<std::string> arguments_;
  std::vector<std::string> known_;
  std::optional<base::Error> error_;
};

/// "12", and no more than nine digits.
std::optional<int> whole_number(std::string_view text);
/// "0.5", "1e-3": not negative, at most 10^9.
std::optional<double> decimal_number(std::string_view text);

}  // namespace gearshift::strategy
