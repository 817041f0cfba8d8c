#pragma once

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gearshift/membership/monitor.h"

namespace gearshift::sim {

/// What a monitor does in a real job, without heartbeats: in a simulation, whoever fails is known
/// to all at once. One for all ranks.
class JobMonitor final : public membership::Monitor {
 public:
  explicit JobMonitor(std::function<void(const base::Error&)> end_job)
      : end_job_(std::move(end_job)) {}

  std::optional<base::Error> failure() const override { return failure_; }
  void fail(const base::Error& error) override {
    if (failure_) return;
    failure_ = error;
    end_job_(error);
  }
  /// More about the failure that there is.
  void add(const std::string& what) { failure_->message += what; }
  /// The job starts anew.
  void reset() { failure_.reset(); }
  std::vector<membership::PeerReport> report() const override { return {}; }
  std::string report_text() const override { return {}; }
  base::Error explain(const base::Error& error) const override { return failure_.value_or(error); }
  void stop() override {}

 private:
  const std::function<void(const base::Error&)> end_job_;
  std::optional<base::Error> failure_;
};

}  // namespace gearshift::sim
