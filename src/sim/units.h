#pragma once

#include <limits>
#include <string>
#include <string_view>

#include "gearshift/base/result.h"

namespace gearshift::sim {

/// Bytes per second from "1 Gbit/s", "100M", "10gbit" (bits, as `tc` reads them) or "119.6 MB/s"
/// (bytes). Prefixes k, M, G, T are powers of 1000, in either case; Ki, Mi, Gi, Ti of 1024.
/// Errors: kInvalidArgument. Any finite number is taken, a negative one, too. Thread-safe.
base::Result<double> parse_rate(std::string_view text);

/// Seconds from "25 us", "1.5 ms", "2 s", "10 min", "3 h"; "ns", "µs" and "1 d", too.
/// Errors and thread-safety as above.
base::Result<double> parse_duration(std::string_view text);

enum class Bound : unsigned char { kPositive, kNotNegative };

/// Between which a value must lie unless it is 0, so that what is computed of it stays finite.
struct Limits {
  double least = 0;
  double most = std::numeric_limits<double>::max();
  std::string_view unit{};
};
inline constexpr Limits kRateLimits{1, 1e18, " B/s"};
inline constexpr Limits kTimeLimits{0, 1e9, " s"};  ///< the virtual clock ends at 9.2e9 s
inline constexpr Limits kFactorLimits{1e-9, 1e9};

/// Why `value` is not what it must be: "a rate must be positive, this is -1"; "": it is. `noun` is
/// "a rate", `shown` how the user wrote the value.
std::string complaint(std::string_view noun, double value, Bound bound, std::string_view shown,
                      const Limits& limits = {});

/// "0.5", "1e+09": the shortest text for a number in a message.
std::string shown(double value);

}  // namespace gearshift::sim
