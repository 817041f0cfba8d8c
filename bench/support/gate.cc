#include "support/gate.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <stdexcept>
#include <utility>

namespace gearshift::bench {
namespace {

[[noreturn]] void fail(const std::string& what) {
  throw std::runtime_error(what + ": " + std::strerror(errno));
}

int connect_to(const char* path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (std::strlen(path) >= sizeof address.sun_path) throw std::runtime_error("gate: path too long");
  std::strcpy(address.sun_path, path);
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) fail("gate: socket");
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    fail(std::string("gate: connect to ") + path);
  }
  return fd;
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return out + '"';
}

std::string to_json(const Report& report) {
  std::ostringstream out;
  out.precision(9);
  out << "{\"seconds\": [";
  for (std::size_t i = 0; i < report.seconds.size(); ++i) {
    out << (i == 0 ? "" : ", ") << report.seconds[i];
  }
  out << "], \"verified\": " << (report.problem.empty() ? "true" : "false");
  if (!report.problem.empty()) out << ", \"problem\": " << quoted(report.problem);
  if (!report.note.empty()) out << ", \"note\": " << quoted(report.note);
  out << ", \"operations\": " << report.operations << "}\n";
  return out.str();
}

}  // namespace

Order::Order(const std::vector<std::string>& words) {
  for (const std::string& word : words) {
    const std::size_t equals = word.find('=');
    if (equals == std::string::npos || word.front() == '-') continue;
    values_[word.substr(0, equals)] = word.substr(equals + 1);
  }
}

std::size_t Order::number(const std::string& key, std::size_t fallback) const {
  const auto found = values_.find(key);
  if (found == values_.end()) return fallback;
  char* end = nullptr;
  const unsigned long long value = std::strtoull(found->second.c_str(), &end, 10);
  if (end == found->second.c_str() || *end != '\0' || found->second.front() == '-') {
    throw std::invalid_argument(key + "=" + found->second + " is no whole number");
  }
  return value;
}

Gate::Gate(int rank, int argc, char** argv) : rank_(rank) {
  const char* path = std::getenv("GEARSHIFT_BENCH_GATE");
  if (path == nullptr || *path == '\0') {
    from_arguments_ = Order(std::vector<std::string>(argv + 1, argv + argc));
    return;
  }
  socket_ = connect_to(path);
  send("rank " + std::to_string(rank) + "\n");
}

Gate::~Gate() {
  if (socket_ >= 0) ::close(socket_);
}

std::optional<Order> Gate::next() {
  if (socket_ < 0) return std::exchange(from_arguments_, std::nullopt);
  const std::optional<std::string> line = read_line();
  if (!line) return std::nullopt;
  std::istringstream in(*line);
  std::vector<std::string> words;
  for (std::string word; in >> word;) words.push_back(word);
  return Order(words);
}

void Gate::report(const Report& report) {
  const std::string line = to_json(report);
  if (socket_ >= 0) {
    send(line);
  } else if (rank_ == 0) {
    std::fputs(line.c_str(), stdout);
    std::fflush(stdout);
  }
}

std::optional<std::string> Gate::read_line() {
  while (true) {
    const std::size_t end = unread_.find('\n');
    if (end != std::string::npos) {
      std::string line = unread_.substr(0, end);
      unread_.erase(0, end + 1);
      return line;
    }
    char buffer[512];
    const ssize_t n = ::read(socket_, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return std::nullopt;
    unread_.append(buffer, static_cast<std::size_t>(n));
  }
}

void Gate::send(std::string_view line) const {
  while (!line.empty()) {
    const ssize_t n = ::send(socket_, line.data(), line.size(), MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("gate: the driver is gone");
    line.remove_prefix(static_cast<std::size_t>(n));
  }
}

std::string option(int argc, char** argv, std::string_view name, const std::string& fallback) {
  for (int i = 1; i < argc; ++i) {
    if (argv[i] != name) continue;
    if (i + 1 == argc) throw std::invalid_argument(std::string(name) + " needs a value");
    return argv[i + 1];
  }
  return fallback;
}

int number_from_environment(const char* name) {
  const char* text = std::getenv(name);
  if (text == nullptr || *text == '\0') {
    throw std::invalid_argument(std::string(name) + " is not set");
  }
  return std::atoi(text);
}

}  // namespace gearshift::bench
