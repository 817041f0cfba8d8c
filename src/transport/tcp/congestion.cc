#include "transport/tcp/congestion.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <array>
#include <cstring>
#include <fstream>

namespace gearshift::transport::tcp {
namespace {

/// What is farther away may have links that lose packets for other reasons than full queues.
constexpr base::Duration kNear = std::chrono::milliseconds(5);

bool set(const base::Fd& fd, const std::string& name) {
  return ::setsockopt(fd.get(), IPPROTO_TCP, TCP_CONGESTION, name.data(),
                      static_cast<socklen_t>(name.size())) == 0;
}

std::string current(const base::Fd& fd) {
  std::array<char, 16> name{};  // TCP_CA_NAME_MAX
  socklen_t size = name.size();
  if (::getsockopt(fd.get(), IPPROTO_TCP, TCP_CONGESTION, name.data(), &size) != 0) return {};
  return std::string(name.data(), ::strnlen(name.data(), size));
}

std::string allowed() {
  std::ifstream file("/proc/sys/net/ipv4/tcp_allowed_congestion_control");
  std::string names;
  std::getline(file, names);
  return names.empty() ? "unknown" : names;
}

}  // namespace

std::string system_congestion_control() {
  return current(base::Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)));
}

base::Status check_congestion_control(const std::string& wanted) {
  if (wanted == "auto" || wanted == "system") return {};
  const base::Fd probe(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!probe) return last_io_error("socket");
  if (set(probe, wanted)) return {};
  return base::Error(base::ErrorCode::kInvalidArgument,
                     "the system does not let this process use the congestion control '" + wanted +
                         "'; use auto, system, or one of: " + allowed());
}

void begin_with_cubic(const base::Fd& fd) {
  if (current(fd).starts_with("bbr")) set(fd, "cubic");
}

base::Duration round_trip(const base::Fd& fd) {
  tcp_info info{};
  socklen_t size = sizeof(info);
  if (::getsockopt(fd.get(), IPPROTO_TCP, TCP_INFO, &info, &size) != 0) return {};
  return std::chrono::microseconds(info.tcpi_rtt);
}

void choose_congestion_control(const base::Fd& fd, const std::string& wanted,
                               base::Duration round_trip) {
  const bool near = round_trip > base::Duration::zero() && round_trip < kNear;
  if (wanted == "auto" && near) return;
  const bool by_system = wanted == "auto" || wanted == "system";
  const std::string name = by_system ? system_congestion_control() : wanted;
  if (name != current(fd)) set(fd, name);
}

}  // namespace gearshift::transport::tcp
