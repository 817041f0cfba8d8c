#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "gearshift/base/channel.h"
#include "gearshift/base/result.h"
#include "gearshift/base/scheduler.h"

namespace gearshift::strategy {

/// How long at least one of several tasks was busy. Thread-safety: all methods.
class BusyTime {
 public:
  explicit BusyTime(base::Scheduler& scheduler)
      : scheduler_(scheduler), monitor_(scheduler.make_monitor()) {}

  void begin();
  void end();
  double seconds() const;

 private:
  base::Scheduler& scheduler_;
  std::unique_ptr<base::Monitor> monitor_;
  int busy_ = 0;
  base::TimePoint since_;
  double seconds_ = 0;
};

/// Runs communication jobs one after another beside the computation. After a job has failed, those
/// behind it are dropped until `drain` has handed out the error.
///
/// Thread-safety: `post` from anywhere; `drain` from one task at a time.
class CommTask {
 public:
  using Job = std::function<base::Status()>;
  /// The time of jobs that count is added to `busy`, which may be shared with other tasks.
  CommTask(base::Scheduler& scheduler, const std::string& name, std::shared_ptr<BusyTime> busy);
  /// Waits for the jobs posted so far.
  ~CommTask();

  /// `counts`: its time is time spent communicating.
  void post(Job job, bool counts = true);
  /// Waits until everything posted so far has run; returns the first error since the last drain.
  /// Jobs bound their own waits, so this needs no deadline of its own.
  base::Status drain();
  const std::shared_ptr<BusyTime>& busy() const { return busy_; }

 private:
  struct Posted {
    Job job;
    bool counts = true;
  };
  void run();
  base::Status run_one(const Posted& posted);
  void finish_one(base::Status status);

  std::shared_ptr<BusyTime> busy_;
  base::Channel<Posted> jobs_;
  std::unique_ptr<base::Monitor> monitor_;
  std::int64_t pending_ = 0;
  std::optional<base::Error> error_;
  std::unique_ptr<base::Task> task_;
};

}  // namespace gearshift::strategy
