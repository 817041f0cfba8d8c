#include <cmath>
#include <cstdio>
#include <sstream>

#include "gearshift/strategy/config.h"

namespace gearshift::strategy {
namespace {

class LossPlateau final : public Policy {
 public:
  LossPlateau(int window, double threshold) : window_(window), threshold_(threshold) {}

  std::string name() const override {
    std::ostringstream text;
    text << "loss_plateau(window=" << window_ << ", threshold=" << threshold_ << ")";
    return text.str();
  }

  bool compares_epochs() const override { return true; }

  base::Status validate(std::int64_t) const override {
    if (window_ < 1 || !(threshold_ > 0)) {
      return base::Error(base::ErrorCode::kInvalidArgument,
                         name() + ": window must be at least 1 and threshold positive");
    }
    return {};
  }

  Verdict decide(const Metrics& metrics) override {
    const auto& losses = metrics.epoch_losses;
    const auto window = static_cast<std::size_t>(window_);
    if (losses.size() < metrics.earlier_epochs + window + 1) return {};
    double sum = 0;
    for (std::size_t i = losses.size() - window; i < losses.size(); ++i) {
      sum += std::abs(losses[i] - losses[i - 1]) / std::max(std::abs(losses[i - 1]), 1e-300);
    }
    const double change = sum / static_cast<double>(window);
    std::ostringstream inputs;
    inputs << "mean relative change of the epoch loss " << change << ", threshold " << threshold_
           << ", last epoch loss " << losses.back();
    return {change < threshold_, inputs.str()};
  }

 private:
  int window_;
  double threshold_;
};

class At final : public Policy {
 public:
  At(std::int64_t step, double fraction) : step_(step), fraction_(fraction) {}

  std::string name() const override {
    std::ostringstream text;
    if (fraction_ > 0) {
      text << "at(fraction=" << fraction_ << ")";
    } else {
      text << "at(step=" << step_ << ")";
    }
    return text.str();
  }

  std::optional<std::int64_t> known_step(std::int64_t total_steps) const override {
    if (fraction_ <= 0) return step_;
    return std::max<std::int64_t>(1, std::llround(fraction_ * static_cast<double>(total_steps)));
  }

  base::Status validate(std::int64_t total_steps) const override {
    const bool fraction_bad = !(fraction_ >= 0 && fraction_ < 1);  // NaN, too
    if (fraction_bad || (fraction_ == 0 && step_ < 1)) {
      return base::Error(base::ErrorCode::kInvalidArgument,
                         name() + ": step must be at least 1, or fraction between 0 and 1");
    }
    if (fraction_ > 0 && total_steps <= 0) {
      return base::Error(base::ErrorCode::kInvalidArgument,
                         name() +
                             ": needs total_steps, the optimizer steps of the whole job "
                             "(--total-steps, total_steps of a "
                             "job file or of distribute())");
    }
    return {};
  }

  Verdict decide(const Metrics& metrics) override {
    const std::int64_t due = *known_step(metrics.total_steps);
    return {metrics.step == due,
            "step " + std::to_string(metrics.step) + ", due " + std::to_string(due)};
  }

 private:
  std::int64_t step_;
  double fraction_;
};

class Custom final : public Policy {
 public:
  Custom(std::string name, std::function<bool(const Metrics&)> decide)
      : name_(std::move(name)), decide_(std::move(decide)) {}
  std::string name() const override { return name_; }
  Verdict decide(const Metrics& metrics) override {
    std::ostringstream inputs;
    inputs << "step " << metrics.step << ", epoch " << metrics.epoch << ", loss " << metrics.loss;
    return {decide_(metrics), inputs.str()};
  }
  base::Status validate(std::int64_t) const override {
    if (decide_) return {};
    return base::Error(base::ErrorCode::kInvalidArgument,
                       "the policy '" + name_ + "' has no function that decides");
  }

 private:
  std::string name_;
  std::function<bool(const Metrics&)> decide_;
};

}  // namespace

std::shared_ptr<Policy> loss_plateau(int window, double threshold) {
  return std::make_shared<LossPlateau>(window, threshold);
}
std::shared_ptr<Policy> at_step(std::int64_t step) { return std::make_shared<At>(step, 0); }
std::shared_ptr<Policy> at_fraction(double fraction) {
  // A fraction of zero means "by step" inside: turn it into something that validate refuses.
  return std::make_shared<At>(0, fraction == 0 ? -1 : fraction);
}
std::shared_ptr<Policy> custom_policy(std::string name,
                                      std::function<bool(const Metrics&)> decide) {
  return std::make_shared<Custom>(std::move(name), std::move(decide));
}

}  // namespace gearshift::strategy
