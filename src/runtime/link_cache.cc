#include "runtime/link_cache.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "gearshift/base/bytes.h"
#include "gearshift/base/fd.h"
#include "gearshift/base/log.h"
#include "gearshift/kernels/reduce.h"

namespace gearshift::runtime {
namespace {

namespace fs = std::filesystem;

constexpr char kMagic[] = "gearshift links 2";
constexpr char kPrefix[] = "links-";
constexpr auto kMaxAge = std::chrono::hours(24);

std::string hash_text(const std::string& text) {
  char hash[17];
  std::snprintf(hash, sizeof hash, "%016llx",
                static_cast<unsigned long long>(
                    kernels::hash64(base::bytes_of(std::span<const char>(text)))));
  return hash;
}

fs::path folder() {
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache != nullptr && *cache == '/') {
    return fs::path(cache) / "gearshift";
  }
  if (const char* home = std::getenv("HOME"); home != nullptr && *home == '/') {
    return fs::path(home) / ".cache" / "gearshift";
  }
  return {};
}

/// Hexadecimal, so that no digit is lost: ranks compare hashes.
std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%a", value);
  return text;
}

std::string encode(const group::LinkSpeeds& speeds) {
  std::ostringstream out;
  const auto put = [&](const group::LinkSpeed& link) {
    out << number(link.latency) << ' ' << number(link.seconds_per_byte) << '\n';
  };
  out << number(speeds.reduce_seconds_per_byte) << '\n' << speeds.between.size() << '\n';
  put(speeds.local);
  put(speeds.remote);
  for (const group::LinkSpeed& link : speeds.between) put(link);
  return out.str();
}

bool too_old(const fs::path& file) {
  std::error_code error;
  const auto written = fs::last_write_time(file, error);
  return error || fs::file_time_type::clock::now() - written > kMaxAge;
}

/// Containers come and go, each with a key that nobody asks for again.
void remove_old(const fs::path& folder) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const bool ours = entry.path().filename().string().rfind(kPrefix, 0) == 0;
    std::error_code ignored;
    if (ours && too_old(entry.path())) fs::remove(entry.path(), ignored);
  }
}

/// Of the network that this process sees; no other has it until the next boot.
std::string network_identity() {
#ifdef SO_NETNS_COOKIE
  const base::Fd any(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  std::uint64_t cookie = 0;
  socklen_t size = sizeof cookie;
  const bool known =
      any && ::getsockopt(any.get(), SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &size) == 0;
  if (known) return "cookie " + std::to_string(cookie);
#endif
  // Before Linux 5.14. A namespace that is made after another was removed may get its number.
  struct stat status {};
  return ::stat("/proc/self/ns/net", &status) == 0 ? std::to_string(status.st_ino) : "";
}

class Parser {
 public:
  explicit Parser(const std::string& text) : in_(text) {}

  std::optional<group::LinkSpeeds> speeds() {
    group::LinkSpeeds result;
    result.measured = true;
    result.reduce_seconds_per_byte = positive();
    std::size_t count = 0;
    if (!(in_ >> count) || count > kMaxLinks) return std::nullopt;
    result.local = link();
    result.remote = link();
    for (std::size_t i = 0; i < count && good_; ++i) result.between.push_back(link());
    std::string rest;
    if (!good_ || in_ >> rest) return std::nullopt;
    return result;
  }

 private:
  static constexpr std::size_t kMaxLinks = 1U << 20;

  double positive() {
    std::string word;
    in_ >> word;
    char* end = nullptr;
    const double value = std::strtod(word.c_str(), &end);
    good_ = good_ && !word.empty() && *end == '\0' && std::isfinite(value) && value >= 0;
    return value;
  }
  group::LinkSpeed link() {
    const double latency = positive();
    return {latency, positive()};
  }

  std::istringstream in_;
  bool good_ = true;
};

}  // namespace

LinkCache::LinkCache(const std::vector<std::string>& processes) {
  for (const std::string& process : processes) key_ += process + "\n";
  const fs::path cache = folder();
  if (!cache.empty()) path_ = cache / (kPrefix + hash_text(key_));
}

std::optional<group::LinkSpeeds> LinkCache::load() const {
  if (too_old(path_)) return std::nullopt;
  std::ifstream in(path_);
  std::string magic;
  std::string key_hash;
  std::string body_hash;
  if (!std::getline(in, magic) || magic != kMagic) return std::nullopt;
  if (!std::getline(in, key_hash) || key_hash != hash_text(kMagic + key_)) return std::nullopt;
  if (!std::getline(in, body_hash)) return std::nullopt;
  const std::string body((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  if (body_hash != hash_text(body)) return std::nullopt;
  return Parser(body).speeds();
}

void LinkCache::store(const group::LinkSpeeds& speeds) const {
  if (path_.empty()) return;
  std::error_code error;
  fs::create_directories(fs::path(path_).parent_path(), error);
  remove_old(fs::path(path_).parent_path());
  const std::string fresh = path_ + "." + std::to_string(::getpid());
  const std::string body = encode(speeds);
  std::ofstream out(fresh);
  out << kMagic << '\n' << hash_text(kMagic + key_) << '\n' << hash_text(body) << '\n' << body;
  out.close();
  if (out) fs::rename(fresh, path_, error);
  if (!out || error) {
    fs::remove(fresh, error);
    GEARSHIFT_LOG_AT(kInfo, "runtime", "cannot keep the speeds of links in " << path_);
  }
}

std::string process_identity(const std::string& listen_host,
                             const std::vector<std::string>& transports) {
  std::string boot;
  std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), boot);
  std::string identity = boot + "/" + network_identity() + "/" + listen_host;
  for (const std::string& transport : transports) identity += "/" + transport;
  return identity;
}

}  // namespace gearshift::runtime
