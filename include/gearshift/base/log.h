#pragma once

#include <functional>
#include <sstream>
#include <string>
#include <string_view>

namespace gearshift::base {

enum class LogLevel { kDebug, kInfo, kWarn, kError, kOff };

/// The level of `GEARSHIFT_LOG` (debug, info, warn, error, off; default warn), read once.
LogLevel log_level();
void set_log_level(LogLevel level);
inline bool log_enabled(LogLevel level) { return level >= log_level(); }

/// Shown in each line, e.g. "rank 3". Set once when the rank is known.
void set_log_identity(std::string identity);

/// Writes "HH:MM:SS.mmm gearshift [rank 3] warn transport: text" to stderr in one write.
/// Thread-safe.
void log(LogLevel level, std::string_view module, std::string_view text);

}  // namespace gearshift::base

/// GEARSHIFT_LOG_AT(kWarn, "transport", "refused " << address);  formats only when enabled.
#define GEARSHIFT_LOG_AT(level, module, stream)                                                 \
  do {                                                                                          \
    if (::gearshift::base::log_enabled(::gearshift::base::LogLevel::level)) {                   \
      std::ostringstream gearshift_log_;                                                        \
      gearshift_log_ << stream;                                                                 \
      ::gearshift::base::log(::gearshift::base::LogLevel::level, module, gearshift_log_.str()); \
    }                                                                                           \
  } while (false)
