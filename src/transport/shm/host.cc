#include "transport/shm/host.h"

#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

namespace gearshift::transport::shm {
namespace {

constexpr char kScheme[] = "shm:";

base::Result<std::string> namespace_id(const char* path) {
  struct stat status {};
  if (::stat(path, &status) != 0) {
    return base::Error(base::ErrorCode::kUnsupported,
                       std::string("shared-memory transport: cannot read ") + path);
  }
  return std::to_string(status.st_dev) + "." + std::to_string(status.st_ino);
}

}  // namespace

base::Result<std::string> host_identity() {
  std::string boot;
  if (!std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), boot) || boot.empty()) {
    return base::Error(base::ErrorCode::kUnsupported,
                       "shared-memory transport: cannot read /proc/sys/kernel/random/boot_id");
  }
  GEARSHIFT_ASSIGN_OR_RETURN(const std::string network, namespace_id("/proc/self/ns/net"));
  GEARSHIFT_ASSIGN_OR_RETURN(const std::string user, namespace_id("/proc/self/ns/user"));
  return boot + "/" + network + "/" + user + "/" + std::to_string(::geteuid());
}

std::string Address::to_string() const { return kScheme + host + ":" + socket_name; }

base::Result<Address> Address::parse(const std::string& text) {
  const std::string scheme = kScheme;
  const std::size_t colon = text.rfind(':');
  if (!text.starts_with(scheme) || colon < scheme.size()) {
    return base::Error(base::ErrorCode::kInvalidArgument,
                       "'" + text + "' is no address of the shared-memory transport");
  }
  return Address{text.substr(scheme.size(), colon - scheme.size()), text.substr(colon + 1)};
}

}  // namespace gearshift::transport::shm
