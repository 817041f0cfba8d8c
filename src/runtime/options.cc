#include <arpa/inet.h>
#include <net/if.h>
#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <limits>
#include <optional>
#include <sstream>
#include <string_view>

#include "gearshift/runtime/session.h"
#include "runtime/local_job.h"

namespace gearshift::runtime {
namespace {

using base::Error;
using base::ErrorCode;

std::optional<std::string> variable(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr || *value == '\0') return std::nullopt;
  return std::string(value);
}

template <typename T>
base::Result<T> whole(const char* name, T fallback, T most) {
  const std::optional<std::string> text = variable(name);
  if (!text) return fallback;
  T value = 0;
  const char* const end = text->data() + text->size();
  const auto [rest, error] = std::from_chars(text->data(), end, value);
  if (error != std::errc() || rest != end || value < 0 || value > most) {
    const bool too_large = error == std::errc::result_out_of_range || value > most;
    return Error(ErrorCode::kInvalidArgument,
                 std::string(name) + " must be a whole number" +
                     (too_large ? " of at most " + std::to_string(most) : "") + ", not '" + *text +
                     "'");
  }
  return value;
}
base::Result<int> integer(const char* name, int fallback) {
  constexpr int kMost = 1 << 20;
  return whole(name, fallback, kMost);
}

/// How a launcher that is not ours numbers its processes.
struct Launcher {
  const char* name;
  const char* marker;  ///< set only by this launcher
  const char* rank;
  const char* size;
  const char* local_size;  ///< processes on this host; null when `hosts` says it
  const char* hosts;       ///< number of hosts; null when `local_size` says it
  const char* restarts;    ///< distinguishes jobs of one parent process; may be null
};
constexpr Launcher kLaunchers[] = {
    {"torchrun", "TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", nullptr,
     "TORCHELASTIC_RESTART_COUNT"},
    {"mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
     "OMPI_COMM_WORLD_LOCAL_SIZE", nullptr, nullptr},
    // MPICH, Intel MPI and others whose Hydra starts the processes, itself perhaps started by srun.
    {"mpiexec", "MPI_LOCALNRANKS", "PMI_RANK", "PMI_SIZE", "MPI_LOCALNRANKS", nullptr, nullptr},
    {"srun", "SLURM_STEP_ID", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", nullptr,
     "SLURM_STEP_NUM_NODES", "SLURM_STEP_ID"},
};

base::Status read_token(SessionOptions& options) {
  if (const auto token = variable("GEARSHIFT_TOKEN")) options.token = *token;
  const std::optional<std::string> file = variable("GEARSHIFT_TOKEN_FILE");
  if (!options.token.empty() || !file) return {};
  struct stat info {};
  if (::stat(file->c_str(), &info) == 0 && (info.st_mode & 0077) != 0) {
    return Error(ErrorCode::kInvalidArgument, "other users may open the token file '" + *file +
                                                  "' (GEARSHIFT_TOKEN_FILE); run: chmod 600 " +
                                                  *file);
  }
  std::ifstream in(*file);
  if (!(in >> options.token)) {
    return Error(ErrorCode::kInvalidArgument,
                 "GEARSHIFT_TOKEN_FILE: cannot read a token from '" + *file + "'");
  }
  return {};
}

/// The first of the hosts that Slurm names: of "gpu[07-09,12],cpu1", "gpu07".
std::string first_host(const std::string& nodes) {
  std::string host;
  bool passing = false;  // what follows the first number within brackets
  bool within = false;
  for (const char c : nodes) {
    if (c == '[' || c == ']') {
      within = c == '[';
      passing = false;
    } else if (c == ',' && !within) {
      break;
    } else if (within && (c == '-' || c == ',')) {
      passing = true;
    } else if (!passing) {
      host += c;
    }
  }
  return host;
}

/// On the step's first host, where rank 0 is, at a port that steps side by side do not share. Below
/// the ports that systems give to connections. The Python package chooses the same.
base::Result<std::string> slurm_rendezvous() {
  constexpr int kFirst = 20000;
  constexpr int kPorts = 10000;
  const std::string host =
      first_host(variable("SLURM_STEP_NODELIST").value_or(variable("SLURM_NODELIST").value_or("")));
  if (host.empty()) return std::string();
  constexpr std::int64_t kMost = std::numeric_limits<std::uint32_t>::max();
  GEARSHIFT_ASSIGN_OR_RETURN(const std::int64_t job, whole<std::int64_t>("SLURM_JOB_ID", 0, kMost));
  GEARSHIFT_ASSIGN_OR_RETURN(const std::int64_t step,
                             whole<std::int64_t>("SLURM_STEP_ID", 0, kMost));
  return "tcp://" + host + ":" + std::to_string(kFirst + (31 * job + step) % kPorts);
}

/// Rendezvous and token of a job that a foreign launcher started.
base::Status complete(SessionOptions& options, const Launcher& launcher) {
  const bool counts_hosts = launcher.hosts != nullptr;
  GEARSHIFT_ASSIGN_OR_RETURN(const int count,
                             integer(counts_hosts ? launcher.hosts : launcher.local_size, 0));
  const bool one_host = counts_hosts ? count == 1 : count == options.world_size;
  options.nnodes = one_host ? 1 : 2;
  if (options.world_size == 1) return {};
  if (one_host && options.rdzv.empty()) {
    const std::string restarts =
        launcher.restarts == nullptr ? "0" : variable(launcher.restarts).value_or("0");
    GEARSHIFT_ASSIGN_OR_RETURN(
        const LocalJob job,
        open_local_job(launcher.name, restarts, {launcher.rank, launcher.marker}));
    options.rdzv = "file://" + job.directory;
    if (options.token.empty()) options.token = job.token;
  }
  if (options.rdzv.empty() && std::string_view(launcher.name) == "srun") {
    GEARSHIFT_ASSIGN_OR_RETURN(options.rdzv, slurm_rendezvous());
  }
  if (options.rdzv.empty()) {
    return Error(ErrorCode::kInvalidArgument,
                 std::string("under ") + launcher.name +
                     " on several hosts, set GEARSHIFT_RDZV=HOST:PORT to an address of rank 0's "
                     "host and a free port there");
  }
  return {};
}

bool is_loopback(const std::string& host) {
  in_addr v4{};
  if (::inet_pton(AF_INET, host.c_str(), &v4) == 1) return (ntohl(v4.s_addr) >> 24) == 127;
  return host == "localhost" || host == "::1" || host == "[::1]";
}

/// The processes of a job of which one only knows what PyTorch's `env://` does: rank 0 serves the
/// rendezvous at MASTER_ADDR:MASTER_PORT. Without a word of who shares a host, as in Kubernetes,
/// each process has one to itself.
base::Status read_master(SessionOptions& options) {
  GEARSHIFT_ASSIGN_OR_RETURN(options.rank, integer("RANK", 0));
  GEARSHIFT_ASSIGN_OR_RETURN(options.world_size, integer("WORLD_SIZE", 1));
  if (options.world_size == 1) return {};
  std::string host = variable("MASTER_ADDR").value_or("");
  const int together = is_loopback(host) ? options.world_size : 1;
  GEARSHIFT_ASSIGN_OR_RETURN(const int local, integer("LOCAL_WORLD_SIZE", together));
  options.nnodes = local >= options.world_size ? 1 : 2;
  if (options.rdzv.empty()) {
    const std::string port = variable("MASTER_PORT").value_or("");
    if (host.empty() || port.empty()) {
      return Error(ErrorCode::kInvalidArgument,
                   "RANK and WORLD_SIZE say that this is one of several processes, but not where "
                   "they meet: set MASTER_ADDR and MASTER_PORT (or GEARSHIFT_RDZV=HOST:PORT) in "
                   "each, an address of the host of rank 0 that all can reach and a free port; to "
                   "train alone, unset RANK and WORLD_SIZE");
    }
    if (host.find(':') != std::string::npos && host.front() != '[') host = "[" + host + "]";
    options.rdzv = "tcp://" + host + ":" + port;
  }
  if (options.token.empty() && options.nnodes == 1) {
    GEARSHIFT_ASSIGN_OR_RETURN(options.token, user_token());
  }
  return {};
}

/// The place that a foreign launcher has given to this process, if one has.
base::Status read_foreign(SessionOptions& options) {
  for (const Launcher& launcher : kLaunchers) {
    if (!variable(launcher.marker) || !variable(launcher.rank)) continue;
    GEARSHIFT_ASSIGN_OR_RETURN(options.rank, integer(launcher.rank, 0));
    GEARSHIFT_ASSIGN_OR_RETURN(options.world_size, integer(launcher.size, 1));
    return complete(options, launcher);
  }
  return variable("RANK") && variable("WORLD_SIZE") ? read_master(options) : base::Status();
}

/// Stands for all addresses of a host, and is none at which others reach it.
bool is_wildcard(const std::string& interface) {
  const bool bracketed = interface.starts_with('[') && interface.ends_with(']');
  const std::string bare = bracketed ? interface.substr(1, interface.size() - 2) : interface;
  in_addr v4{};
  in6_addr v6{};
  if (::inet_aton(bare.c_str(), &v4) != 0) return v4.s_addr == INADDR_ANY;
  return ::inet_pton(AF_INET6, bare.c_str(), &v6) == 1 && IN6_IS_ADDR_UNSPECIFIED(&v6);
}

/// "tcp, shm" -> {"tcp", "shm"}.
std::vector<std::string> names_in(std::string text) {
  std::replace(text.begin(), text.end(), ',', ' ');
  std::istringstream in(text);
  return {std::istream_iterator<std::string>(in), {}};
}

base::Status read_common(SessionOptions& options) {
  GEARSHIFT_RETURN_IF_ERROR(read_token(options));
  GEARSHIFT_ASSIGN_OR_RETURN(options.measure, SessionOptions::measure_from_environment());
  GEARSHIFT_ASSIGN_OR_RETURN(options.servers, integer("GEARSHIFT_SERVERS", 0));
  if (const auto text = variable("GEARSHIFT_TIMEOUT")) {
    char* end = nullptr;
    const double seconds = std::strtod(text->c_str(), &end);
    if (*end != '\0' || !(seconds > 0)) {
      return Error(ErrorCode::kInvalidArgument,
                   "GEARSHIFT_TIMEOUT must be a positive number of seconds, not '" + *text + "'");
    }
    options.timeout = base::from_seconds(seconds);
  }
  options.rdzv = variable("GEARSHIFT_RDZV").value_or("");
  options.interface = variable("GEARSHIFT_INTERFACE").value_or("");
  options.congestion_control = SessionOptions::congestion_control_from_environment();
  options.transports = names_in(variable("GEARSHIFT_TRANSPORTS").value_or(""));
  return {};
}

}  // namespace

base::Result<collectives::Measure> SessionOptions::measure_from_environment() {
  const std::string text = variable("GEARSHIFT_CALIBRATE").value_or("auto");
  if (text == "auto") return collectives::Measure::kIfSeveralHosts;
  if (text == "off") return collectives::Measure::kNever;
  if (text == "force") return collectives::Measure::kAlways;
  return Error(ErrorCode::kInvalidArgument,
               "GEARSHIFT_CALIBRATE must be auto, off or force, not '" + text + "'");
}

std::string SessionOptions::congestion_control_from_environment() {
  return variable("GEARSHIFT_TCP_CONGESTION").value_or("auto");
}

base::Result<std::optional<strategy::Strategy>> SessionOptions::strategy_from_environment() {
  const std::optional<std::string> text = variable("GEARSHIFT_STRATEGY");
  if (!text) return std::optional<strategy::Strategy>();
  auto strategy = strategy::parse(*text);
  if (!strategy) {
    return Error(ErrorCode::kInvalidArgument, "GEARSHIFT_STRATEGY: " + strategy.error().message);
  }
  constexpr std::int64_t kNone = 0;
  GEARSHIFT_ASSIGN_OR_RETURN(
      strategy->total_steps,
      whole("GEARSHIFT_TOTAL_STEPS", kNone, std::numeric_limits<std::int64_t>::max()));
  return std::optional(*std::move(strategy));
}

base::Result<SessionOptions> SessionOptions::from_environment() {
  SessionOptions options;
  GEARSHIFT_RETURN_IF_ERROR(read_common(options));
  if (variable("GEARSHIFT_RANK")) {
    GEARSHIFT_ASSIGN_OR_RETURN(options.rank, integer("GEARSHIFT_RANK", 0));
    GEARSHIFT_ASSIGN_OR_RETURN(options.world_size, integer("GEARSHIFT_WORLD_SIZE", 1));
    GEARSHIFT_ASSIGN_OR_RETURN(options.nnodes, integer("GEARSHIFT_NNODES", 1));
  } else {
    GEARSHIFT_RETURN_IF_ERROR(read_foreign(options));
  }
  GEARSHIFT_RETURN_IF_ERROR(options.validate());
  return options;
}

base::Status SessionOptions::go_on() const {
  if (!interrupted || !interrupted()) return {};
  return Error(ErrorCode::kAborted, "interrupted while it waited for the other processes");
}

base::Status SessionOptions::validate() const {
  const auto bad = [](const std::string& text) { return Error(ErrorCode::kInvalidArgument, text); };
  if (world_size < 1 || rank < 0 || rank >= world_size) {
    return bad("rank " + std::to_string(rank) + " of world size " + std::to_string(world_size) +
               " does not exist");
  }
  if (servers < 0 || servers >= world_size) {
    return bad("of " + std::to_string(world_size) + " processes, " + std::to_string(servers) +
               " cannot be servers: at least one must be a worker");
  }
  if (timeout <= base::Duration::zero()) return bad("timeout must be positive");
  for (const std::string& name : transports) {
    if (name == "tcp" || name == "shm") continue;
    return bad("there is no transport '" + name +
               "': GEARSHIFT_TRANSPORTS, or the argument `transports`, may name tcp and shm");
  }
  if (is_wildcard(interface)) {
    return bad("GEARSHIFT_INTERFACE: the other processes cannot connect to '" + interface +
               "'; it must be an address that this host has, as they see it");
  }
  if (::if_nametoindex(interface.c_str()) != 0) {
    return bad(
        "GEARSHIFT_INTERFACE takes an address of this host, as the others see it, and not '" +
        interface + "', the name of an interface; `ip addr` shows the addresses that it has");
  }
  if (world_size == 1) return {};
  if (rdzv.empty()) return bad("no rendezvous: set GEARSHIFT_RDZV, or start with `gearshift run`");
  if (nnodes > 1 && interface.empty() && rdzv.rfind("file://", 0) == 0) {
    return bad(
        "a rendezvous in files does not tell at which address the other hosts reach this one: set "
        "GEARSHIFT_INTERFACE to it, or GEARSHIFT_RDZV to HOST:PORT");
  }
  if (token.empty()) {
    return bad(
        "no job token: several processes must prove that they belong together. Set the same secret "
        "on all hosts, e.g. `export GEARSHIFT_TOKEN=$(openssl rand -hex 32)`, or put it into a "
        "file that only you can read and set GEARSHIFT_TOKEN_FILE");
  }
  return {};
}

}  // namespace gearshift::runtime
