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

/// Optimizer state of the framework, and scales of losses, exported and imported by an object in
/// Python whose methods are those of strategy::OptimizerBridge; None: by nothing.
class PythonBridge final : public strategy::OptimizerBridge {
 public:
  explicit PythonBridge(nb::object own) : own_(std::move(own)) {}
  base::Result<std::vector<ps::StateEntry>> export_state() override;
  base::Status import_state(std::vector<ps::StateEntry> state) override;
  bool has_scales() const override { return true; }
  base::Result<std::vector<std::byte>> export_scales(bool skipped) override;
  base::Status import_scales(base::ConstBytes scales) override;
  /// With the GIL: lets the object go, and with it what it refers to.
  void forget();

 private:
  nb::object own_;
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
  nb::object bridge;  ///< see PythonBridge
  std::size_t buffer_bytes = 0;
  std::string fingerprint;
};

/// Collective. Returns gearshift._core.Replica.
nb::object distribute(std::shared_ptr<runtime::Session> session, DistributeRequest request);

/// From now on nothing that lives in the core is destroyed: the interpreter is about to go.
void leave_everything();

}  // namespace gearshift::python
