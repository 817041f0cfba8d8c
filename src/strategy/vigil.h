#pragma once

#include <memory>

#include "gearshift/base/scheduler.h"
#include "gearshift/membership/monitor.h"

namespace gearshift::strategy {

/// A rank that has run out of batches, or comes to a meeting, waits for others that still compute,
/// which may take long while all is well: heartbeats find the dead and the frozen, this bounds the
/// rest, as a multiple of the timeout.
constexpr int kPatientTimeouts = 20;

/// While it lives: a wait that may last as long as any rank of the group makes steps. When none has
/// made one for kPatientTimeouts · timeout, the group fails with kTimeout.
class Vigil {
 public:
  /// `monitor` must outlive this.
  Vigil(base::Scheduler& scheduler, membership::Monitor& monitor, base::Duration timeout);
  ~Vigil();
  Vigil(const Vigil&) = delete;
  Vigil& operator=(const Vigil&) = delete;

 private:
  void watch();

  base::Scheduler& scheduler_;
  membership::Monitor& watched_;
  const base::Duration timeout_;
  std::unique_ptr<base::Monitor> monitor_;
  bool over_ = false;
  std::unique_ptr<base::Task> task_;
};

}  // namespace gearshift::strategy
