#include "runtime/local_job.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "gearshift/base/fd.h"
#include "gearshift/base/scheduler.h"
#include "gearshift/transport/handshake.h"

namespace gearshift::runtime {
namespace {

using base::Error;
using base::ErrorCode;

Error io_error(const std::string& what, const std::string& path) {
  return {ErrorCode::kIo, what + " '" + path + "': " + std::strerror(errno)};
}

/// A directory of this user that nobody else can enter.
base::Status make_private_directory(const std::string& path) {
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) return io_error("cannot make", path);
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0) return io_error("cannot look at", path);
  if (!S_ISDIR(info.st_mode) || info.st_uid != ::getuid() || (info.st_mode & 0077) != 0) {
    return Error(ErrorCode::kIo, "'" + path + "' is not a directory that only this user can enter");
  }
  return {};
}

/// A field of a process's stat line, from the third on: they are counted from 1. "0" if it has
/// gone.
std::string stat_field(pid_t pid, int number) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/stat");
  std::string line;
  std::getline(in, line);
  const std::size_t name_end = line.rfind(')');
  if (name_end == std::string::npos) return "0";
  std::istringstream fields(line.substr(name_end + 1));
  std::string field;
  for (int i = 3; i <= number; ++i) fields >> field;
  return field;
}

/// Clock ticks after boot at which a process began.
std::string start_time(pid_t pid) { return stat_field(pid, 22); }

/// Whether the environment that a process was started with has these entries. False for another
/// user's: a daemon such as slurmstepd, so the launcher.
bool began_with(pid_t pid, std::set<std::string> entries) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/environ");
  for (std::string one; !entries.empty() && std::getline(in, one, '\0');) entries.erase(one);
  return entries.empty();
}

pid_t launcher_process(const std::vector<std::string>& rank_variables) {
  std::set<std::string> entries;
  for (const std::string& name : rank_variables) {
    const char* own = std::getenv(name.c_str());
    entries.insert(name + "=" + (own == nullptr ? "" : own));
  }
  pid_t pid = ::getppid();
  while (pid > 1 && began_with(pid, entries)) {
    pid = static_cast<pid_t>(std::strtol(stat_field(pid, 4).c_str(), nullptr, 10));
  }
  return pid;
}

/// What names begin with; holds the PID namespace, in which alone a process id means something.
std::string prefix() {
  struct stat info {};
  const bool known = ::stat("/proc/self/ns/pid", &info) == 0;
  return "cpp-" + std::to_string(known ? info.st_ino : 0) + "-";
}

std::string job_name(pid_t parent) {
  return prefix() + std::to_string(parent) + "-" + start_time(parent) + "-";
}

/// Removes the directories of launchers that have ended.
void remove_stale(const std::string& user) {
  const std::string common = prefix();
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(user, ignored)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(common)) continue;
    const long parent = std::strtol(name.c_str() + common.size(), nullptr, 10);
    if (name.starts_with(job_name(static_cast<pid_t>(parent)))) continue;
    std::filesystem::remove_all(entry.path(), ignored);
  }
}

/// Publishes the token whole (by a link to it), unless another process was first. The draft is
/// named by chance: containers that share the directory may have equal process numbers, and one
/// that died over its draft may have left it.
base::Status offer_token(const std::string& path) {
  std::string draft = path + ".XXXXXX";
  base::Fd file(::mkostemp(draft.data(), O_CLOEXEC));
  if (!file) return io_error("cannot create", draft);
  const std::string token = transport::make_token();
  const bool written =
      ::write(file.get(), token.data(), token.size()) == static_cast<ssize_t>(token.size());
  const bool linked = written && (::link(draft.c_str(), path.c_str()) == 0 || errno == EEXIST);
  const Error failure = io_error("cannot write", path);
  file.reset();
  ::unlink(draft.c_str());
  if (!linked) return failure;
  return {};
}

/// The token in a directory, of whoever came first.
base::Result<std::string> shared_token(const std::string& directory) {
  const std::string path = directory + "/token";
  std::string token;
  // Where it is there already, a full disk is no obstacle.
  if (std::ifstream(path) >> token) return token;
  GEARSHIFT_RETURN_IF_ERROR(offer_token(path));
  std::ifstream in(path);
  if (!(in >> token)) return io_error("cannot read", path);
  return token;
}

/// Where all that is this user's lies.
base::Result<std::string> user_directory() {
  std::error_code error;
  const std::filesystem::path base = std::filesystem::temp_directory_path(error);
  if (error) return Error(ErrorCode::kIo, "no directory for temporary files: " + error.message());
  std::string user = (base / ("gearshift-" + std::to_string(::getuid()))).string();
  GEARSHIFT_RETURN_IF_ERROR(make_private_directory(user));
  return user;
}

}  // namespace

base::Result<LocalJob> open_local_job(const std::string& launcher, const std::string& restarts,
                                      const std::vector<std::string>& rank_variables) {
  GEARSHIFT_ASSIGN_OR_RETURN(const std::string user, user_directory());
  remove_stale(user);
  LocalJob job;
  job.directory =
      user + "/" + job_name(launcher_process(rank_variables)) + launcher + "-" + restarts;
  GEARSHIFT_RETURN_IF_ERROR(make_private_directory(job.directory));
  GEARSHIFT_ASSIGN_OR_RETURN(job.token, shared_token(job.directory));
  return job;
}

base::Result<std::string> user_token() {
  GEARSHIFT_ASSIGN_OR_RETURN(const std::string user, user_directory());
  return shared_token(user);
}

}  // namespace gearshift::runtime
