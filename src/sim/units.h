#pragma once

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

/// Why `value` is not what it must be: "a rate must be positive, this is -1"; "": it is. `noun` is
/// "a rate", `shown` how the user wrote the value.
std::string complaint(std::string_view noun, double value, Bound bound, std::string_view shown);

/// "0.5", "1e+09": the shortest text for a number in a message.
std::string shown(double value);

}  // namespace gearshift::sim
