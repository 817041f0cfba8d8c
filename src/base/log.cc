#include "gearshift/base/log.h"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <mutex>

namespace gearshift::base {
namespace {

LogLevel level_from_environment() {
  const char* value = std::getenv("GEARSHIFT_LOG");
  const std::string_view name = value == nullptr ? "" : value;
  if (name == "debug") return LogLevel::kDebug;
  if (name == "info") return LogLevel::kInfo;
  if (name == "error") return LogLevel::kError;
  if (name == "off") return LogLevel::kOff;
  if (!name.empty() && name != "warn") {
    std::fprintf(stderr, "gearshift: GEARSHIFT_LOG is debug, info, warn, error or off, not '%s'\n",
                 value);
  }
  return LogLevel::kWarn;
}

std::atomic<LogLevel>& current_level() {
  static std::atomic<LogLevel> level{level_from_environment()};
  return level;
}

struct IdentityHolder {
  std::mutex mutex;
  std::string text;
};
IdentityHolder& identity() {
  static auto* holder = new IdentityHolder;  // outlives threads that log during exit
  return *holder;
}

std::string wall_clock() {
  const auto now = std::chrono::system_clock::now();
  const std::time_t seconds = std::chrono::system_clock::to_time_t(now);
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch());
  std::tm local{};
  localtime_r(&seconds, &local);
  char text[32];
  std::snprintf(text, sizeof text, "%02d:%02d:%02d.%03d", local.tm_hour, local.tm_min, local.tm_sec,
                static_cast<int>(ms.count() % 1000));
  return text;
}

const char* name_of(LogLevel level) {
  static constexpr const char* kNames[] = {"debug", "info", "warn", "error", "off"};
  return kNames[static_cast<int>(level)];
}

}  // namespace

LogLevel log_level() { return current_level().load(std::memory_order_relaxed); }
void set_log_level(LogLevel level) { current_level().store(level); }

void set_log_identity(std::string text) {
  std::lock_guard<std::mutex> lock(identity().mutex);
  identity().text = std::move(text);
}

void log(LogLevel level, std::string_view module, std::string_view text) {
  if (!log_enabled(level) || level == LogLevel::kOff) return;
  std::string who;
  {
    std::lock_guard<std::mutex> lock(identity().mutex);
    who = identity().text;
  }
  std::ostringstream line;
  line << wall_clock() << " gearshift ";
  if (!who.empty()) line << '[' << who << "] ";
  line << name_of(level) << ' ' << module << ": " << text << '\n';
  const std::string bytes = line.str();
  // A lost log line is no reason to stop training.
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, bytes.data(), bytes.size());
}

}  // namespace gearshift::base
