#include "strategy/state_sharing.h"

#include <cstdint>
#include <string>
#include <utility>

#include "gearshift/base/serial.h"
#include "gearshift/collectives/collectives.h"
#include "strategy/agreement.h"

namespace gearshift::strategy {
namespace {

/// Which tensors there are, and the scalars.
base::Writer describe_state(const std::vector<ps::StateEntry>& state) {
  base::Writer writer;
  for (const ps::StateEntry& entry : state) {
    writer.put(static_cast<std::uint32_t>(entry.tensors.size()));
    for (const auto& [name, tensor] : entry.tensors) writer.put(std::string_view(name));
    writer.put(static_cast<std::uint32_t>(entry.scalars.size()));
    for (const auto& [name, value] : entry.scalars) writer.put(std::string_view(name)).put(value);
  }
  return writer;
}

/// The same state with tensors of zeros.
base::Result<std::vector<ps::StateEntry>> state_like(base::ConstBytes description,
                                                     const std::vector<ParameterSpec>& parameters,
                                                     bool phantom) {
  base::Reader reader(description);
  std::vector<ps::StateEntry> state(parameters.size());
  for (std::size_t p = 0; p < parameters.size(); ++p) {
    const std::size_t bytes = parameters[p].elements() * base::size_of(parameters[p].dtype);
    for (auto n = reader.get<std::uint32_t>(); n > 0 && reader.ok(); --n) {
      state[p].tensors[reader.get_string()] =
          phantom ? base::Buffer::phantom(bytes) : base::Buffer(bytes);
    }
    for (auto n = reader.get<std::uint32_t>(); n > 0 && reader.ok(); --n) {
      const std::string name = reader.get_string();
      state[p].scalars[name] = reader.get<double>();
    }
  }
  GEARSHIFT_RETURN_IF_ERROR(reader.status("optimizer state"));
  return state;
}

}  // namespace

base::Result<std::vector<ps::StateEntry>> broadcast_state(
    group::Group& workers, const std::vector<ParameterSpec>& parameters,
    std::vector<ps::StateEntry> mine, base::Rank root, bool phantom) {
  const bool is_root = workers.rank() == root;
  std::vector<std::byte> described;
  if (is_root) described = describe_state(mine).take();
  GEARSHIFT_ASSIGN_OR_RETURN(const std::vector<std::byte> description,
                             broadcast_blob(workers, described, root, "optimizer state"));
  if (!is_root) {
    GEARSHIFT_ASSIGN_OR_RETURN(mine, state_like(description, parameters, phantom));
  }
  collectives::Options options;
  options.label = "optimizer state";
  for (ps::StateEntry& entry : mine) {
    for (auto& [name, tensor] : entry.tensors) {
      GEARSHIFT_RETURN_IF_ERROR(collectives::broadcast(workers, tensor.view(), root, options));
    }
  }
  return mine;
}

}  // namespace gearshift::strategy
