#include "runtime/local_job.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

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

/// Clock ticks after boot at which a process began: field 22 of its stat line.
std::string start_time(pid_t pid) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/stat");
  std::string line;
  std::getline(in, line);
  const std::size_t name_end = line.rfind(')');
  if (name_end == std::string::npos) return "0";
  std::istringstream fields(line.substr(name_end + 1));
  std::string field;
  for (int i = 3; i <= 22; ++i) fields >> field;
  return field;
}

/// Publishes the token whole (by rename), unless another process was first.
base::Status offer_token(const std::string& path) {
  const std::string draft = path + "." + std::to_string(::getpid());
  const int fd = ::open(draft.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) return io_error("cannot create", draft);
  const std::string token = transport::make_token();
  const bool written =
      ::write(fd, token.data(), token.size()) == static_cast<ssize_t>(token.size());
  ::close(fd);
  const bool linked = written && (::link(draft.c_str(), path.c_str()) == 0 || errno == EEXIST);
  const Error failure = io_error("cannot write", path);
  ::unlink(draft.c_str());
  if (!linked) return failure;
  return {};
}

}  // namespace

base::Result<LocalJob> open_local_job(const std::string& launcher, const std::string& restarts) {
  const std::string user = "/tmp/gearshift-" + std::to_string(::getuid());
  GEARSHIFT_RETURN_IF_ERROR(make_private_directory(user));
  const pid_t parent = ::getppid();
  LocalJob job;
  job.directory = user + "/cpp-" + launcher + "-" + std::to_string(parent) + "-" +
                  start_time(parent) + "-" + restarts;
  GEARSHIFT_RETURN_IF_ERROR(make_private_directory(job.directory));
  const std::string path = job.directory + "/token";
  GEARSHIFT_RETURN_IF_ERROR(offer_token(path));
  std::ifstream in(path);
  if (!(in >> job.token)) return io_error("cannot read", path);
  return job;
}

}  // namespace gearshift::runtime
