#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <mutex>
#include <optional>
#include <random>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "gearshift/base/fd.h"
#include "gearshift/rendezvous/file/factory.h"
#include "rendezvous/limits.h"

namespace gearshift::rendezvous::file {
namespace {

constexpr base::Duration kFirstPoll = std::chrono::milliseconds(1);
constexpr base::Duration kLastPoll = std::chrono::milliseconds(50);
/// The lock is held for two small file operations; whoever holds it longer is stuck.
constexpr base::Duration kLockTime = std::chrono::seconds(30);
constexpr std::size_t kLongestName = 200;
/// What files are called that a present process keeps locked; they hold its name.
constexpr std::string_view kPresence = ".here.";

base::Error io_error(const std::string& what, int error_number) {
  return {base::ErrorCode::kIo, what + ": " + std::generic_category().message(error_number)};
}

std::string hex(unsigned char byte) {
  char text[3];
  std::snprintf(text, sizeof text, "%02X", byte);
  return text;
}

std::uint64_t random_store_number() {
  std::random_device device;
  return (std::uint64_t{device()} << 32) | device();
}

/// A file name for any key: readable for usual keys, a digest for very long ones. Starts with
/// neither '.' nor '~' unless it is a digest, so it meets no file of our own.
std::string name_of(const std::string& key) {
  std::string name;
  for (const char c : key) {
    const auto byte = static_cast<unsigned char>(c);
    const bool plain = (byte >= '0' && byte <= '9') || (byte >= 'a' && byte <= 'z') ||
                       (byte >= 'A' && byte <= 'Z') || byte == '_' || byte == '-';
    name += plain ? std::string(1, c) : "%" + hex(byte);
  }
  if (name.size() <= kLongestName) return name;
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  EVP_Digest(key.data(), key.size(), digest, &size, EVP_sha256(), nullptr);
  name = "~";
  for (unsigned int i = 0; i < size; ++i) name += hex(digest[i]);
  return name;
}

class FileStore final : public Store {
 public:
  FileStore(base::Scheduler& scheduler, base::Fd directory, std::string path)
      : scheduler_(scheduler),
        directory_(std::move(directory)),
        path_(std::move(path)),
        monitor_(scheduler.make_monitor()) {}

  base::Status set(const std::string& key, const std::string& value) override {
    GEARSHIFT_RETURN_IF_ERROR(check_key(key));
    GEARSHIFT_RETURN_IF_ERROR(check_value(key, value));
    return replace(name_of(key), value);
  }

  base::Result<std::string> get(const std::string& key, base::TimePoint deadline) override {
    GEARSHIFT_RETURN_IF_ERROR(check_key(key));
    const std::string name = name_of(key);
    base::Duration pause = kFirstPoll;
    while (true) {
      GEARSHIFT_ASSIGN_OR_RETURN(auto value, read(name));
      if (value) return std::move(*value);
      if (scheduler_.now() >= deadline) return key_timeout(key);
      scheduler_.sleep_until(std::min(deadline, scheduler_.after(pause)));
      pause = std::min(pause * 2, kLastPoll);
    }
  }

  base::Result<std::int64_t> add(const std::string& key, std::int64_t amount) override {
    GEARSHIFT_RETURN_IF_ERROR(check_key(key));
    GEARSHIFT_ASSIGN_OR_RETURN(const base::Fd lock, lock_directory());
    const std::string name = name_of(key);
    GEARSHIFT_ASSIGN_OR_RETURN(const auto before, read(name));
    GEARSHIFT_ASSIGN_OR_RETURN(const std::int64_t sum,
                               add_to_counter(key, before.value_or("0"), amount));
    GEARSHIFT_RETURN_IF_ERROR(replace(name, std::to_string(sum)));
    return sum;
  }

  base::Status attend(const std::string& name) override {
    GEARSHIFT_RETURN_IF_ERROR(check_key(name));
    GEARSHIFT_ASSIGN_OR_RETURN(base::Fd file,
                               put(std::string(kPresence) + name_of(name), name, true));
    std::lock_guard<base::Monitor> lock(*monitor_);
    presence_.push_back(std::move(file));
    return {};
  }

  base::Result<std::string> absentee() override {
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(path_, error)) {
      const std::string file = entry.path().filename().string();
      if (!file.starts_with(kPresence) || is_locked(file)) continue;
      GEARSHIFT_ASSIGN_OR_RETURN(auto name, read(file));
      if (name) return std::move(*name);
    }
    if (error) return io_error("list " + path_, error.value());
    return std::string();
  }

  std::string address() const override { return "file://" + path_; }

 private:
  /// The lock ends with the descriptor, so it cannot outlive a process that dies.
  base::Result<base::Fd> lock_directory() {
    base::Fd lock(
        ::openat(directory_.get(), ".lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!lock) return io_error("open " + path_ + "/.lock", errno);
    const base::TimePoint deadline = scheduler_.after(kLockTime);
    base::Duration pause = kFirstPoll;
    while (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK && errno != EINTR) return io_error("lock " + path_, errno);
      if (scheduler_.now() >= deadline) {
        return base::Error(base::ErrorCode::kTimeout,
                           "another process keeps " + path_ + "/.lock locked");
      }
      scheduler_.sleep_for(pause);
      pause = std::min(pause * 2, kLastPoll);
    }
    return lock;
  }

  base::Status replace(const std::string& name, const std::string& value) {
    const base::Result<base::Fd> file = put(name, value, false);
    return file ? base::Status() : base::Status(file.error());
  }

  /// Readers see the old value or the new one, never a part: the file is renamed into place; if
  /// `locked`, nobody sees it without its lock. No file and no descriptor when there are no locks.
  base::Result<base::Fd> put(const std::string& name, const std::string& value, bool locked) {
    // Children that were forked have this store's number, too.
    const std::string temporary = ".new." + std::to_string(number_) + "." +
                                  std::to_string(::getpid()) + "." + std::to_string(made_++);
    base::Fd file(::openat(directory_.get(), temporary.c_str(),
                           O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!file) return io_error("create a file in " + path_, errno);
    if (locked && ::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
      ::unlinkat(directory_.get(), temporary.c_str(), 0);
      return base::Fd();
    }
    const base::Status written = write_all(file, value);
    if (written &&
        ::renameat(directory_.get(), temporary.c_str(), directory_.get(), name.c_str()) == 0) {
      return file;
    }
    const int error = errno;
    ::unlinkat(directory_.get(), temporary.c_str(), 0);
    if (!written) return written.error();
    return io_error("rename in " + path_, error);
  }

  /// Whether another descriptor holds the lock of a file that is there.
  bool is_locked(const std::string& name) const {
    const base::Fd file(
        ::openat(directory_.get(), name.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    return !file || ::flock(file.get(), LOCK_SH | LOCK_NB) != 0;
  }

  base::Status write_all(const base::Fd& file, const std::string& value) const {
    std::size_t done = 0;
    while (done < value.size()) {
      const ssize_t n = ::write(file.get(), value.data() + done, value.size() - done);
      if (n < 0 && errno != EINTR) return io_error("write in " + path_, errno);
      if (n > 0) done += static_cast<std::size_t>(n);
    }
    return {};
  }

  /// Nothing when the file does not exist.
  base::Result<std::optional<std::string>> read(const std::string& name) const {
    base::Fd file(::openat(directory_.get(), name.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    if (!file) {
      // ESTALE: on NFS, a file that was just replaced; the next look sees the new one.
      if (errno == ENOENT || errno == ESTALE) return std::optional<std::string>();
      return io_error("read " + path_ + "/" + name, errno);
    }
    std::string value(kMaxValueBytes + 1, '\0');
    std::size_t size = 0;
    while (size < value.size()) {
      const ssize_t n = ::read(file.get(), value.data() + size, value.size() - size);
      if (n == 0) break;
      if (n < 0 && errno == ESTALE) return std::optional<std::string>();
      if (n < 0 && errno != EINTR) return io_error("read " + path_ + "/" + name, errno);
      if (n > 0) size += static_cast<std::size_t>(n);
    }
    if (size > kMaxValueBytes) {
      return base::Error(base::ErrorCode::kProtocol, path_ + "/" + name + " is too large");
    }
    value.resize(size);
    return std::optional<std::string>(std::move(value));
  }

  base::Scheduler& scheduler_;
  const base::Fd directory_;
  const std::string path_;
  /// Tells the files that stores are about to put into a directory apart: containers of one host
  /// may have equal names and process numbers.
  const std::uint64_t number_ = random_store_number();
  std::atomic<std::uint64_t> made_{0};
  std::unique_ptr<base::Monitor> monitor_;
  std::vector<base::Fd> presence_;  ///< locked as long as this process is there
};

base::Status check_private(const base::Fd& directory, const std::string& path) {
  struct stat info {};
  if (::fstat(directory.get(), &info) != 0) return io_error("stat " + path, errno);
  const bool foreign_owner = info.st_uid != ::geteuid() && info.st_uid != 0;
  if (!foreign_owner && (info.st_mode & (S_IWGRP | S_IWOTH)) == 0) return {};
  return base::Error(base::ErrorCode::kInvalidArgument,
                     "rendezvous directory " + path +
                         " can be written to by other users; they could join or disturb the job. "
                         "Use a directory of your own with mode 0700");
}

}  // namespace

base::Result<std::unique_ptr<Store>> open(base::Scheduler& scheduler,
                                          const std::string& directory) {
  namespace fs = std::filesystem;
  std::error_code error;
  std::string path = fs::absolute(directory, error).lexically_normal().string();
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  if (directory.empty() || error) {
    return base::Error(base::ErrorCode::kInvalidArgument,
                       "'" + directory + "' is not the path of a directory");
  }
  fs::create_directories(fs::path(path).parent_path(), error);
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) return io_error("make " + path, errno);
  base::Fd opened(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!opened) return io_error("open " + path, errno);
  GEARSHIFT_RETURN_IF_ERROR(check_private(opened, path));
  return std::unique_ptr<Store>(
      std::make_unique<FileStore>(scheduler, std::move(opened), std::move(path)));
}

}  // namespace gearshift::rendezvous::file
