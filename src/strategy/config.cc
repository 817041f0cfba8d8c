#include "gearshift/strategy/config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <sstream>

#include "strategy/phases.h"

namespace gearshift::strategy {
namespace {

using base::Error;
using base::ErrorCode;
using base::Status;

constexpr std::array<std::string_view, 2> kCompressions{"none", "bf16"};

std::string describe(const AllReduce& s) {
  return "all_reduce(algorithm=" + std::string(collectives::to_string(s.algorithm)) +
         ", compression=" + std::string(to_string(s.compression)) + ")";
}

std::string describe(const LocalSgd& s) {
  std::ostringstream text;
  text << "local_sgd(every=" << s.every << ", outer_lr=" << s.outer_lr
       << ", outer_momentum=" << s.outer_momentum << ", compression=" << to_string(s.compression)
       << ")";
  return text.str();
}

std::string describe(const ParameterServer& s) {
  static constexpr const char* kScaling[] = {"auto", "keep", "divide", "sqrt"};
  std::ostringstream text;
  text << "parameter_server(consistency=" << s.consistency.to_string() << ", shards=" << s.shards
       << ", servers=" << s.servers << ", clip_norm=" << s.clip_norm
       << ", lr_scaling=" << kScaling[static_cast<int>(s.lr_scaling)]
       << ", divergence_factor=" << s.divergence_factor
       << ", compression=" << to_string(s.compression) << ")";
  return text.str();
}

std::string describe(const Phase& phase) {
  return std::visit([](const auto& p) { return describe(p); }, phase);
}

std::string describe(const StrategySwitch& s) {
  return "switch(start=" + describe(s.start) + ", then=" + describe(s.then) +
         ", policy=" + s.policy->name() + ", back=" + (s.back ? s.back->name() : "never") + ")";
}

Status check(Compression compression) {
  const auto number = static_cast<std::size_t>(compression);
  if (number < kCompressions.size()) return {};
  return Error(ErrorCode::kInvalidArgument, "there is no compression " + std::to_string(number));
}

Status check(const AllReduce& s, int, int) {
  if (!collectives::algorithm_from_string(collectives::to_string(s.algorithm))) {
    return Error(ErrorCode::kInvalidArgument, "there is no all-reduce algorithm " +
                                                  std::to_string(static_cast<int>(s.algorithm)));
  }
  return check(s.compression);
}

Status check(const LocalSgd& s, int, int) {
  const auto bad = [](const char* text) { return Error(ErrorCode::kInvalidArgument, text); };
  if (s.every < 1) return bad("local_sgd: every must be a number of steps from 1 on");
  if (!(s.outer_lr > 0) || !std::isfinite(s.outer_lr)) {
    return bad("local_sgd: outer_lr must be positive and finite");
  }
  if (!(s.outer_momentum >= 0) || !(s.outer_momentum < 1)) {
    return bad("local_sgd: outer_momentum must lie from 0 to below 1");
  }
  return check(s.compression);
}

Status check(const ParameterServer& s, int workers, int servers) {
  GEARSHIFT_RETURN_IF_ERROR(s.consistency.validate());
  if (s.servers >= 0 && s.servers != servers) {
    return Error(ErrorCode::kInvalidArgument,
                 "the strategy wants " + std::to_string(s.servers) +
                     " dedicated servers, but the job was started with " + std::to_string(servers) +
                     ": start it with `gearshift run --servers " + std::to_string(s.servers) +
                     "`; in a simulation, hosts of the cluster have them (`servers = 1`)");
  }
  if (s.shards < 0 || s.shards > workers) {
    return Error(ErrorCode::kInvalidArgument,
                 "shards must be between 0 (one per worker) and the number of workers, " +
                     std::to_string(workers) + "; got " + std::to_string(s.shards));
  }
  if (servers > 0 && s.shards != 0 && s.shards != servers) {
    return Error(ErrorCode::kInvalidArgument,
                 "with dedicated servers there is one shard in each: leave shards out");
  }
  if (!(s.clip_norm >= 0) || !(s.divergence_factor >= 0)) {
    return Error(ErrorCode::kInvalidArgument,
                 "clip_norm and divergence_factor must not be negative");
  }
  return check(s.compression);
}

Status check(const Phase& phase, int workers, int servers) {
  return std::visit([&](const auto& p) { return check(p, workers, servers); }, phase);
}

}  // namespace

std::string_view to_string(Compression compression) {
  const auto number = static_cast<std::size_t>(compression);
  return number < kCompressions.size() ? kCompressions[number] : "unknown";
}

std::optional<Compression> compression_from_string(std::string_view name) {
  const auto* const found = std::find(kCompressions.begin(), kCompressions.end(), name);
  if (found == kCompressions.end()) return std::nullopt;
  return static_cast<Compression>(found - kCompressions.begin());
}

std::vector<std::string_view> compression_names() {
  return {kCompressions.begin(), kCompressions.end()};
}

std::string to_string(const Phase& phase) {
  if (const auto* server = std::get_if<ParameterServer>(&phase)) {
    return "parameter_server(" + server->consistency.to_string() + ")";
  }
  const auto* local = std::get_if<LocalSgd>(&phase);
  return local != nullptr ? "local_sgd(" + std::to_string(local->every) + ")" : "all_reduce";
}

Status Strategy::validate(int workers, int servers) const {
  if (bucket_bytes == 0) return Error(ErrorCode::kInvalidArgument, "bucket_bytes must be positive");
  const auto* s = std::get_if<StrategySwitch>(&kind);
  for (const Phase& phase : phases_of(*this)) {
    GEARSHIFT_RETURN_IF_ERROR(check(phase, workers, servers));
  }
  if (s == nullptr) return {};
  if (s->start.index() == s->then.index()) {
    return Error(
        ErrorCode::kInvalidArgument,
        "a switch goes from one of all_reduce, local_sgd and parameter_server to another; got " +
            strategy::to_string(s->start) + " and " + strategy::to_string(s->then));
  }
  if (s->policy == nullptr) return Error(ErrorCode::kInvalidArgument, "a switch needs a policy");
  GEARSHIFT_RETURN_IF_ERROR(s->policy->validate(total_steps));
  if (s->back == nullptr) return {};
  GEARSHIFT_RETURN_IF_ERROR(s->back->validate(total_steps));
  const auto there = s->policy->known_step(total_steps);
  const auto back = s->back->known_step(total_steps);
  if (!there || !back || *back > *there) return {};
  return Error(ErrorCode::kInvalidArgument,
               "the switch back after step " + std::to_string(*back) +
                   " would never happen: it must come after the switch, which is after step " +
                   std::to_string(*there));
}

std::string Strategy::to_string() const {
  std::ostringstream text;
  text << std::visit([](const auto& k) { return describe(k); }, kind)
       << " bucket_bytes=" << (bucket_bytes ? std::to_string(*bucket_bytes) : "auto")
       << " total_steps=" << total_steps;
  return text.str();
}

}  // namespace gearshift::strategy
