#include <map>
#include <mutex>

#include "gearshift/rendezvous/memory/factory.h"
#include "rendezvous/limits.h"

namespace gearshift::rendezvous::memory {
namespace {

class MemoryStore final : public Store {
 public:
  explicit MemoryStore(base::Scheduler& scheduler) : monitor_(scheduler.make_monitor()) {}

  base::Status set(const std::string& key, const std::string& value) override {
    GEARSHIFT_RETURN_IF_ERROR(check_key(key));
    GEARSHIFT_RETURN_IF_ERROR(check_value(key, value));
    std::lock_guard<base::Monitor> lock(*monitor_);
    values_[key] = value;
    monitor_->notify_all();
    return {};
  }

  base::Result<std::string> get(const std::string& key, base::TimePoint deadline) override {
    GEARSHIFT_RETURN_IF_ERROR(check_key(key));
    std::lock_guard<base::Monitor> lock(*monitor_);
    while (true) {
      if (auto found = values_.find(key); found != values_.end()) return found->second;
      if (!monitor_->wait_until(deadline) && !values_.contains(key)) return key_timeout(key);
    }
  }

  base::Result<std::int64_t> add(const std::string& key, std::int64_t amount) override {
    GEARSHIFT_RETURN_IF_ERROR(check_key(key));
    std::lock_guard<base::Monitor> lock(*monitor_);
    auto at = values_.try_emplace(key, "0").first;
    GEARSHIFT_ASSIGN_OR_RETURN(const std::int64_t sum, add_to_counter(key, at->second, amount));
    at->second = std::to_string(sum);
    monitor_->notify_all();
    return sum;
  }

  /// All who use the store are in this process, and go with it.
  base::Status attend(const std::string& name) override { return check_key(name); }
  base::Result<std::string> absentee() override { return std::string(); }

  std::string address() const override { return "memory"; }

 private:
  std::unique_ptr<base::Monitor> monitor_;
  std::map<std::string, std::string> values_;
};

}  // namespace

std::shared_ptr<Store> make(base::Scheduler& scheduler) {
  return std::make_shared<MemoryStore>(scheduler);
}

}  // namespace gearshift::rendezvous::memory
