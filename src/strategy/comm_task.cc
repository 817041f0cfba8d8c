#include "strategy/comm_task.h"

#include <mutex>

namespace gearshift::strategy {

CommTask::CommTask(base::Scheduler& scheduler, const std::string& name)
    : jobs_(scheduler), monitor_(scheduler.make_monitor()) {
  task_ = scheduler.spawn(name, [this] { run(); });
}

CommTask::~CommTask() {
  jobs_.close(base::Error(base::ErrorCode::kClosed, "communication task ends"));
  task_->join();
}

void CommTask::post(Job job) {
  {
    std::lock_guard<base::Monitor> lock(*monitor_);
    ++pending_;
  }
  jobs_.push(std::move(job));
}

base::Status CommTask::drain() {
  std::lock_guard<base::Monitor> lock(*monitor_);
  while (pending_ > 0) monitor_->wait_until(base::TimePoint::never());
  if (!error_) return {};
  base::Error error = *error_;
  error_.reset();
  return error;
}

void CommTask::run() {
  while (true) {
    base::Result<Job> job = jobs_.pop(base::TimePoint::never());
    if (!job) return;
    bool skip = false;
    {
      std::lock_guard<base::Monitor> lock(*monitor_);
      skip = error_.has_value();
    }
    finish_one(skip ? base::Status() : (*job)());
  }
}

void CommTask::finish_one(base::Status status) {
  std::lock_guard<base::Monitor> lock(*monitor_);
  if (!status && !error_) error_ = status.error();
  if (--pending_ == 0) monitor_->notify_all();
}

}  // namespace gearshift::strategy
