#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "gearshift/base/dtype.h"
#include "gearshift/base/result.h"
#include "gearshift/sim/simulate.h"
#include "gearshift/sim/workload.h"

namespace gearshift::sim {

/// Samples with labels: row i of `features` has `feature_count` numbers.
struct LabelledData {
  std::size_t feature_count = 0;
  int classes = 2;
  std::vector<float> features;
  std::vector<int> labels;  ///< 0 … classes-1

  std::size_t size() const { return labels.size(); }
};

/// Multinomial logistic regression (softmax and cross-entropy), which begins at zero: a learner
/// that needs no framework. Its metric is the accuracy on `test`.
///
/// The workload must have the two parameters of `logistic_regression_parameters`. In step k (from
/// 1), worker r of N takes the samples ((k-1)·N + r)·batch_size … of `train`, which begins anew at
/// its end: so N workers see in a step what one process with N-fold batches sees.
/// kInvalidArgument: the workload does not fit the data, or there is no data.
base::Result<std::shared_ptr<Learner>> make_logistic_regression(const Workload& workload,
                                                                int workers, LabelledData train,
                                                                LabelledData test);

/// "weight" (classes × features) and "bias" (classes) of this dtype (kF32 or kF64), ready at the
/// end of backward.
std::vector<WorkloadParameter> logistic_regression_parameters(std::size_t features, int classes,
                                                              base::DType dtype,
                                                              double backward_seconds);

}  // namespace gearshift::sim
