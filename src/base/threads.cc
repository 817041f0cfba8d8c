#include "gearshift/base/threads.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <optional>
#include <system_error>

namespace gearshift::base {
namespace {

namespace fs = std::filesystem;

constexpr Duration kFirstPause = std::chrono::milliseconds(5);
constexpr Duration kLongestPause = std::chrono::milliseconds(100);
constexpr const char* kFewer = ", or start fewer processes on this host";

std::optional<long> number_in(const fs::path& file) {
  std::ifstream in(file);
  long value = 0;
  if (!(in >> value)) return std::nullopt;  // "max", too
  return value;
}

/// Of the control group that counts threads: "pids" of version 1, or the one of version 2.
fs::path control_group() {
  std::ifstream in("/proc/self/cgroup");
  fs::path found;
  for (std::string line; std::getline(in, line);) {
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string name = line.substr(second + 1);
    const std::string kind = line.substr(first + 1, second - first - 1);
    if (kind == "pids") return fs::path("/sys/fs/cgroup/pids" + name);
    if (kind.empty()) found = fs::path("/sys/fs/cgroup" + name);
  }
  return found;
}

/// Within a container its own group may be what is mounted as the root.
std::optional<std::string> group_limit() {
  for (fs::path group = control_group(); group.string().size() > 1; group = group.parent_path()) {
    const auto most = number_in(group / "pids.max");
    const auto now = number_in(group / "pids.current");
    if (most && now && *now >= *most) {
      return "the control group " + group.string() + " may have " + std::to_string(*most) +
             " threads and processes (pids.max), and has them: raise that (docker --pids-limit, "
             "systemd's TasksMax, Kubernetes' podPidsLimit)" +
             kFewer;
    }
  }
  return std::nullopt;
}

long threads_of_user() {
  long count = 0;
  std::error_code ignored;
  for (const auto& process : fs::directory_iterator("/proc", ignored)) {
    const std::string name = process.path().filename().string();
    struct stat info {};
    if (std::isdigit(static_cast<unsigned char>(name[0])) == 0) continue;
    if (::stat(process.path().c_str(), &info) != 0 || info.st_uid != ::getuid()) continue;
    for (const auto& thread : fs::directory_iterator(process.path() / "task", ignored)) {
      count += thread.path().empty() ? 0 : 1;
    }
  }
  return count;
}

/// Root is not held to it.
std::optional<std::string> user_limit() {
  rlimit limit{};
  if (::geteuid() == 0 || ::getrlimit(RLIMIT_NPROC, &limit) != 0) return std::nullopt;
  const long now = threads_of_user();
  if (limit.rlim_cur == RLIM_INFINITY || static_cast<rlim_t>(now) < limit.rlim_cur) {
    return std::nullopt;
  }
  return "this user may have " + std::to_string(limit.rlim_cur) +
         " threads and processes (ulimit -u), and has " + std::to_string(now) +
         ": raise that (ulimit -u, /etc/security/limits.conf)" + kFewer;
}

std::optional<std::string> memory_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return std::nullopt;
  return "this process may have " + std::to_string(limit.rlim_cur >> 20) +
         " MiB of addresses (ulimit -v), of which each thread takes some for its stack: `ulimit -v "
         "unlimited`";
}

}  // namespace

std::unique_ptr<Task> spawn_patiently(Scheduler& scheduler, const std::string& name,
                                      const std::function<void()>& body) {
  const TimePoint deadline = scheduler.after(kThreadPatience);
  for (Duration pause = kFirstPause;; pause = std::min(2 * pause, kLongestPause)) {
    try {
      return scheduler.spawn(name, body);
    } catch (const std::system_error& error) {
      const bool for_now = error.code() == std::errc::resource_unavailable_try_again;
      if (!for_now || scheduler.now() >= deadline) throw;
    }
    scheduler.sleep_for(pause);
  }
}

std::string scarce_threads() {
  if (const auto group = group_limit()) return *group;
  if (const auto user = user_limit()) return *user;
  if (const auto memory = memory_limit()) return *memory;
  return std::string(
             "neither this user's limit (ulimit -u) nor the one of its control group (pids.max) is "
             "reached by now: try again, look at kernel.threads-max and kernel.pid_max (sysctl)") +
         kFewer;
}

}  // namespace gearshift::base
