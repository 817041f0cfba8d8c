#include "strategy/comm_task.h"

#include <mutex>

#include "gearshift/base/threads.h"

namespace gearshift::strategy {

void BusyTime::begin() {
  std::lock_guard<base::Monitor> lock(*monitor_);
  if (busy_++ == 0) since_ = scheduler_.now();
}

void BusyTime::end() {
  std::lock_guard<base::Monitor> lock(*monitor_);
  if (--busy_ == 0) seconds_ += base::to_seconds(scheduler_.now() - since_);
}

double BusyTime::seconds() const {
  std::lock_guard<base::Monitor> lock(*monitor_);
  return seconds_;
}

CommTask::CommTask(base::Scheduler& scheduler, const std::string& name,
                   std::shared_ptr<BusyTime> busy)
    : busy_(std::move(busy)), jobs_(scheduler), monitor_(scheduler.make_monitor()) {
  task_ = base::spawn_patiently(scheduler, name, [this] { run(); });
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

void CommTask::run() {
  while (true) {
    base::Result<Posted> posted = jobs_.pop(base::TimePoint::never());
    if (!posted) return;
    bool skip = false;
    {
      std::lock_guard<base::Monitor> lock(*monitor_);
      skip = error_.has_value();
    }
    finish_one(skip ? base::Status() : run_one(*posted));
  }
}

base::Status CommTask::run_one(const Posted& posted) {
  if (!posted.counts) return posted.job();
  busy_->begin();
  base::Status status = posted.job();
  busy_->end();
  return status;
}

void CommTask::finish_one(base::Status status) {
  std::lock_guard<base::Monitor> lock(*monitor_);
  if (!status && !error_) error_ = status.error();
  if (--pending_ == 0) monitor_->notify_all();
}

}  // namespace gearshift::strategy
