#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "bindings.h"
#include "gearshift/runtime/session.h"
#include "policy.h"

namespace gearshift::python {

/// Optimizer state of the framework, exported and imported by two Python callables.
class PythonBridge final : public strategy::OptimizerBridge {
 public:
  PythonBridge(nb::object export_state, nb::object import_state)
      : export_(std::move(export_state)), import_(std::move(import_state)) {}
  base::Result<std::vector<ps::StateEntry>> export_state() override;
  base::Status import_state(std::vector<ps::StateEntry> state) override;
  /// With the GIL: lets the callables go, and with them what they refer to.
  void forget();

 private:
  nb::object export_, import_;
};

/// A replica with all that must outlive it, shared by Python's handle and by every tensor on its
/// memory.
struct ReplicaState {
  std::shared_ptr<runtime::Session> session;
  std::vector<std::shared_ptr<PythonPolicy>> policies;
  PythonBridge bridge;
  std::unique_ptr<strategy::Replica> replica;
  pid_t process;  ///< that made it
};

struct DistributeRequest {
  using Parameter = std::tuple<std::string, std::vector<std::int64_t>, std::string, std::uint32_t>;
  std::vector<Parameter> parameters;  ///< name, shape, dtype, param group
  strategy::Strategy strategy;
  /// kind, names of numbers, param groups
  std::optional<std::tuple<std::string, std::vector<std::string>, std::uint32_t>> optimizer;
  nb::object export_state, import_state;
  std::size_t buffer_bytes = 0;
  std::string fingerprint;
};

/// Collective. Returns gearshift._core.Replica.
nb::object distribute(std::shared_ptr<runtime::Session> session, DistributeRequest request);

/// From now on nothing that lives in the core is destroyed: the interpreter is about to go.
void leave_everything();

}  // namespace gearshift::python
