#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "gearshift/base/channel.h"
#include "gearshift/base/result.h"
#include "gearshift/base/scheduler.h"

namespace gearshift::strategy {

/// Runs communication jobs one after another beside the computation. After a job has failed, those
/// behind it are dropped until `drain` has handed out the error.
///
/// Thread-safety: `post` from anywhere; `drain` from one task at a time.
class CommTask {
 public:
  using Job = std::function<base::Status()>;
  CommTask(base::Scheduler& scheduler, const std::string& name);
  /// Waits for the jobs posted so far.
  ~CommTask();

  /// `counts`: its time is time spent communicating.
  void post(Job job, bool counts = true);
  /// Waits until everything posted so far has run; returns the first error since the last drain.
  /// Jobs bound their own waits, so this needs no deadline of its own.
  base::Status drain();
  /// Time that jobs took so far, those that count.
  double busy_seconds() const;

 private:
  struct Posted {
    Job job;
    bool counts = true;
  };
  void run();
  void finish_one(base::Status status, double seconds);

  base::Scheduler& scheduler_;
  base::Channel<Posted> jobs_;
  std::unique_ptr<base::Monitor> monitor_;
  std::int64_t pending_ = 0;
  double busy_seconds_ = 0;
  std::optional<base::Error> error_;
  std::unique_ptr<base::Task> task_;
};

}  // namespace gearshift::strategy
