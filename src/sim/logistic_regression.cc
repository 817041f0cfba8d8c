#include "gearshift/sim/logistic_regression.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

namespace gearshift::sim {
namespace {

base::Error invalid(const std::string& what) {
  return {base::ErrorCode::kInvalidArgument, "logistic regression: " + what};
}

/// Computes in double, whatever the parameters' type.
class LogisticRegression final : public Learner {
 public:
  LogisticRegression(const Workload& workload, int workers, LabelledData train, LabelledData test)
      : dtype_(workload.parameters[0].dtype),
        workers_(workers),
        batch_(static_cast<std::size_t>(workload.batch_size)),
        train_(std::move(train)),
        test_(std::move(test)),
        classes_(static_cast<std::size_t>(train_.classes)),
        features_(train_.feature_count),
        scores_(classes_) {}

  base::Status begin(int, strategy::Replica& replica) override {
    for (const std::uint32_t p : {0U, 1U}) {
      const base::Bytes memory = replica.parameter(p);
      std::fill(memory.begin(), memory.end(), std::byte{0});
    }
    return {};
  }

  base::Result<LearnerStep> gradient(int rank, std::int64_t step,
                                     strategy::Replica& replica) override {
    load(replica);
    std::vector<double> d_weight(classes_ * features_, 0.0), d_bias(classes_, 0.0);
    const auto first = (static_cast<std::size_t>(step - 1) * static_cast<std::size_t>(workers_) +
                        static_cast<std::size_t>(rank)) *
                       batch_;
    double loss = 0;
    for (std::size_t i = 0; i < batch_; ++i) {
      const std::size_t sample = (first + i) % train_.size();
      score(train_, sample);
      const auto label = static_cast<std::size_t>(train_.labels[sample]);
      loss -= std::log(scores_[label]);
      const float* x = train_.features.data() + sample * features_;
      for (std::size_t c = 0; c < classes_; ++c) {
        const double error = (scores_[c] - (c == label ? 1 : 0)) / static_cast<double>(batch_);
        d_bias[c] += error;
        for (std::size_t f = 0; f < features_; ++f) d_weight[c * features_ + f] += error * x[f];
      }
    }
    store(d_weight, replica.gradient(0));
    store(d_bias, replica.gradient(1));
    return LearnerStep{.loss = loss / static_cast<double>(batch_), .present = {}, .hypers = {}};
  }

  base::Result<double> evaluate(strategy::Replica& replica) override {
    load(replica);
    std::size_t right = 0;
    for (std::size_t i = 0; i < test_.size(); ++i) {
      score(test_, i);
      const auto best = std::max_element(scores_.begin(), scores_.end()) - scores_.begin();
      right += best == test_.labels[i] ? 1 : 0;
    }
    return static_cast<double>(right) / static_cast<double>(test_.size());
  }

 private:
  void load(strategy::Replica& replica) {
    weight_ = numbers(replica.parameter(0));
    bias_ = numbers(replica.parameter(1));
  }

  std::vector<double> numbers(base::ConstBytes memory) const {
    std::vector<double> values(memory.size() / base::size_of(dtype_));
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (dtype_ == base::DType::kF64) {
        std::memcpy(&values[i], memory.data() + i * sizeof(double), sizeof(double));
      } else {
        float value = 0;
        std::memcpy(&value, memory.data() + i * sizeof(float), sizeof(float));
        values[i] = value;
      }
    }
    return values;
  }

  void store(const std::vector<double>& values, base::Bytes memory) const {
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (dtype_ == base::DType::kF64) {
        std::memcpy(memory.data() + i * sizeof(double), &values[i], sizeof(double));
      } else {
        const auto value = static_cast<float>(values[i]);
        std::memcpy(memory.data() + i * sizeof(float), &value, sizeof(float));
      }
    }
  }

  /// The softmax of a sample's scores, into scores_.
  void score(const LabelledData& data, std::size_t sample) {
    const float* x = data.features.data() + sample * features_;
    for (std::size_t c = 0; c < classes_; ++c) {
      scores_[c] = bias_[c];
      for (std::size_t f = 0; f < features_; ++f) scores_[c] += weight_[c * features_ + f] * x[f];
    }
    const double most = *std::max_element(scores_.begin(), scores_.end());
    double sum = 0;
    for (double& value : scores_) sum += value = std::exp(value - most);
    for (double& value : scores_) value /= sum;
  }

  const base::DType dtype_;
  const int workers_;
  const std::size_t batch_;
  const LabelledData train_, test_;
  const std::size_t classes_, features_;
  std::vector<double> weight_, bias_, scores_;
};

base::Status check(const LabelledData& data, const char* name) {
  if (data.size() == 0) return invalid(std::string(name) + " has no samples");
  if (data.features.size() != data.size() * data.feature_count) {
    return invalid(std::string(name) + " has " + std::to_string(data.features.size()) +
                   " numbers for " + std::to_string(data.size()) + " samples of " +
                   std::to_string(data.feature_count) + " features");
  }
  for (const int label : data.labels) {
    if (label < 0 || label >= data.classes) {
      return invalid(std::string(name) + " has the label " + std::to_string(label) + ", of " +
                     std::to_string(data.classes) + " classes");
    }
  }
  return {};
}

}  // namespace

std::vector<WorkloadParameter> logistic_regression_parameters(std::size_t features, int classes,
                                                              base::DType dtype,
                                                              double backward_seconds) {
  return {{"weight", {classes, static_cast<std::int64_t>(features)}, dtype, backward_seconds},
          {"bias", {classes}, dtype, backward_seconds}};
}

base::Result<std::shared_ptr<Learner>> make_logistic_regression(const Workload& workload,
                                                                int workers, LabelledData train,
                                                                LabelledData test) {
  GEARSHIFT_RETURN_IF_ERROR(check(train, "train"));
  GEARSHIFT_RETURN_IF_ERROR(check(test, "test"));
  if (train.feature_count != test.feature_count || train.classes != test.classes) {
    return invalid("train and test have different features or classes");
  }
  const auto& p = workload.parameters;
  const auto wanted = logistic_regression_parameters(train.feature_count, train.classes,
                                                     p.empty() ? base::DType::kF32 : p[0].dtype, 0);
  const bool fits = p.size() == 2 && p[0].shape == wanted[0].shape &&
                    p[1].shape == wanted[1].shape && p[0].dtype == p[1].dtype &&
                    (p[0].dtype == base::DType::kF32 || p[0].dtype == base::DType::kF64);
  if (!fits) {
    return invalid("the workload's parameters must be weight (" + std::to_string(train.classes) +
                   " x " + std::to_string(train.feature_count) + ") and bias (" +
                   std::to_string(train.classes) + "), float32 or float64");
  }
  if (workers < 1) return invalid("there must be workers");
  return std::shared_ptr<Learner>(
      std::make_shared<LogisticRegression>(workload, workers, std::move(train), std::move(test)));
}

}  // namespace gearshift::sim
