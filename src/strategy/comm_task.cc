#include "strategy/comm_task.h"

#include <mutex>

namespace gearshift::strategy {

CommTask::CommTask(base::Scheduler& scheduler, const std::string& name)
    : scheduler_(scheduler), jobs_(scheduler), monitor_(scheduler.make_monitor()) {
  task_ = scheduler.spawn(name, [this] { run(); });
}

CommTask::~CommTask() {
  jobs_.close(base::Error(base::ErrorCode::kClosed, "communication task ends"));
  task_->join();
}

void CommTask::post(Job job, bool counts) {
  {
    std::lock_guard<base::Monitor> lock(*monitor_);
    ++pending_;
  }
  jobs_.push({std::move(job), counts});
}

base::Status CommTask::drain() {
  std::lock_guard<base::Monitor> lock(*monitor_);
  while (pending_ > 0) monitor_->wait_until(base::TimePoint::never());
  if (!error_) return {};
  base::Error error = *error_;
  error_.reset();
  return error;
}

double CommTask::busy_seconds() const {
  std::lock_guard<base::Monitor> lock(*monitor_);
  return busy_seconds_;
}

void CommTask::run() {
  while (true) {
    base::Result<Posted> posted = jobs_.pop(base::TimePoint::never());
    if (!posted) return;
    bool skip = false;
    {
      std::lock_guard<base::Monitor> lock(*monitor_);
      skip = error_.has_value();
    }
    const base::TimePoint begin = scheduler_.now();
    base::Status status = skip ? base::Status() : posted->job();
    const double seconds = base::to_seconds(scheduler_.now() - begin);
    finish_one(std::move(status), posted->counts ? seconds : 0);
  }
}

void CommTask::finish_one(base::Status status, double seconds) {
  std::lock_guard<base::Monitor> lock(*monitor_);
  busy_seconds_ += seconds;
  if (!status && !error_) error_ = status.error();
  if (--pending_ == 0) monitor_->notify_all();
}

}  // namespace gearshift::strategy
