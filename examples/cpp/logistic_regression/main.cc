// Logistic regression on Fashion-MNIST with hand-written gradients, under any strategy:
//
//   gearshift run -n 4 --strategy 'switch(at=0.5)' -- logistic_regression
//
// Everything about the distribution is in `main`: a Session, a Replica that owns parameters and
// gradients, and one `step` per batch. The rest is what one process would do as well.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <span>
#include <stdexcept>
#include <string>

#include "fashion_mnist/fashion_mnist.h"
#include "gearshift/gearshift.h"

namespace {

namespace gs = gearshift;

struct Arguments {
  std::string strategy;  ///< empty: what the job was started with
  std::string data = "/usr/share/datasets/fashion-mnist";
  int epochs = 3;
  int batch = 128;  ///< per worker
  double lr = 0.05;
};

constexpr const char* kUsage =
    "usage: logistic_regression [--strategy TEXT] [--data FOLDER]\n"
    "                           [--epochs N] [--batch N] [--lr RATE]\n"
    "strategies: all_reduce, local_sgd(8), ps:bsp, ps:asp, ps:ssp(3), switch(at=0.5), ...\n"
    "without one, what `gearshift run --strategy`, a job file or GEARSHIFT_STRATEGY say, or\n"
    "all_reduce\n"
    "on four workers: gearshift run -n 4 --strategy ps:asp -- logistic_regression\n";

int whole(const std::string& name, const std::string& value) {
  std::size_t end = 0;
  int number = 0;
  try {
    number = std::stoi(value, &end);
  } catch (const std::logic_error&) {  // no number, or none that an int holds
    end = 0;
  }
  if (end == 0 || end != value.size() || number < 1) {
    throw std::invalid_argument(name + ": a whole number from 1 on, not '" + value + "'");
  }
  return number;
}

double positive(const std::string& name, const std::string& value) {
  char* end = nullptr;
  const double number = std::strtod(value.c_str(), &end);
  if (end == value.c_str() || *end != '\0' || !(number > 0)) {
    throw std::invalid_argument(name + ": a positive number, not '" + value + "'");
  }
  return number;
}

Arguments parse(int argc, char** argv) {
  Arguments a;
  for (int i = 1; i < argc; i += 2) {
    const std::string name = argv[i];
    if (name == "--help" || name == "-h") {
      std::fputs(kUsage, stdout);
      std::exit(0);
    }
    const bool has_value = i + 1 < argc;
    const std::string value = has_value ? argv[i + 1] : "";
    if (name == "--strategy") {
      a.strategy = value;
    } else if (name == "--data") {
      a.data = value;
    } else if (name == "--epochs") {
      a.epochs = whole(name, value);
    } else if (name == "--batch") {
      a.batch = whole(name, value);
    } else if (name == "--lr") {
      a.lr = positive(name, value);
    } else {
      throw std::invalid_argument(name + ": known are --strategy --data --epochs --batch --lr");
    }
    if (!has_value) throw std::invalid_argument(name + ": no value");
  }
  return a;
}

/// An error of gearshift's, as an exception.
class Failure : public std::runtime_error {
 public:
  explicit Failure(const gs::base::Error& error)
      : std::runtime_error(error.to_string()), code_(error.code) {}
  /// 75 tells `gearshift run` that this process suffers from another's end, and is not to blame.
  int exit_code() const {
    using gs::base::ErrorCode;
    const bool victim = code_ == ErrorCode::kPeerLost || code_ == ErrorCode::kAborted ||
                        code_ == ErrorCode::kClosed || code_ == ErrorCode::kTimeout;
    return victim ? 75 : 1;
  }

 private:
  gs::base::ErrorCode code_;
};

template <typename T>
T check(gs::base::Result<T> result) {
  if (!result) throw Failure(result.error());
  return std::move(result).value();
}
void check(const gs::base::Status& status) {
  if (!status) throw Failure(status.error());
}

gs::Strategy strategy_for(const Arguments& arguments, std::int64_t total_steps) {
  gs::Strategy strategy =
      arguments.strategy.empty()
          ? check(gs::SessionOptions::strategy_from_environment()).value_or(gs::Strategy())
          : check(gs::strategy::parse(arguments.strategy));
  strategy.total_steps = total_steps;
  return strategy;
}

std::span<float> floats(gs::base::Bytes bytes) {
  return {reinterpret_cast<float*>(bytes.data()), bytes.size() / sizeof(float)};
}

/// Softmax regression on a set of images; `order[i]` indexes them.
class Model {
 public:
  Model(std::span<float> weights, std::span<float> bias) : weights_(weights), bias_(bias) {}

  /// Mean cross-entropy over the images, and its gradient when the spans are not empty.
  double loss(const Images& images, std::span<const std::uint32_t> order, std::span<float> dw,
              std::span<float> db, int* correct = nullptr) const {
    std::fill(dw.begin(), dw.end(), 0.0F);
    std::fill(db.begin(), db.end(), 0.0F);
    double sum = 0;
    for (const std::uint32_t i : order) {
      float p[kClasses];
      const std::uint8_t* x = &images.pixels[i * kPixels];
      const std::size_t label = images.labels[i];
      sum += probabilities(x, label, p);
      if (correct != nullptr)
        *correct += std::max_element(p, p + kClasses) - p == static_cast<long>(label);
      if (dw.empty()) continue;
      p[label] -= 1;
      const float scale = 1.0F / static_cast<float>(order.size());
      for (std::size_t c = 0; c < kClasses; ++c) {
        const float error = p[c] * scale;
        db[c] += error;
        for (std::size_t j = 0; j < kPixels; ++j) {
          dw[c * kPixels + j] += error * static_cast<float>(x[j]) / 255;
        }
      }
    }
    return order.empty() ? 0 : sum / static_cast<double>(order.size());
  }

 private:
  /// Fills p with the class probabilities; returns the loss of this image.
  double probabilities(const std::uint8_t* x, std::size_t label, float* p) const {
    for (std::size_t c = 0; c < kClasses; ++c) {
      float sum = bias_[c];
      for (std::size_t j = 0; j < kPixels; ++j) {
        sum += weights_[c * kPixels + j] * static_cast<float>(x[j]) / 255;
      }
      p[c] = sum;
    }
    const float top = *std::max_element(p, p + kClasses);
    float total = 0;
    for (std::size_t c = 0; c < kClasses; ++c) total += p[c] = std::exp(p[c] - top);
    for (std::size_t c = 0; c < kClasses; ++c) p[c] /= total;
    return -std::log(std::max(p[label], 1e-30F));
  }

  std::span<float> weights_, bias_;
};

double test_accuracy(gs::Session& session, const Model& model, const Images& images) {
  // Each worker looks at its part; the counts are added up.
  std::vector<std::uint32_t> mine;
  const auto workers = static_cast<std::size_t>(session.world_size());
  for (auto i = static_cast<std::size_t>(session.rank().value); i < images.count(); i += workers) {
    mine.push_back(static_cast<std::uint32_t>(i));
  }
  int correct = 0;
  model.loss(images, mine, {}, {}, &correct);
  double sum = correct;
  check(gs::all_reduce(session.workers(), gs::base::writable_bytes_of(sum), gs::base::DType::kF64,
                       gs::base::ReduceOp::kSum));
  return sum / static_cast<double>(images.count());
}

struct Job {
  gs::Session& session;
  gs::Replica& replica;
  gs::LocalOptimizer& optimizer;
  const Arguments& arguments;
};

/// One epoch over this worker's part of the data; returns its mean loss.
double train_epoch(Job job, const Images& images, std::vector<std::uint32_t> order, int epoch) {
  Model model(floats(job.replica.parameter(0)), floats(job.replica.parameter(1)));
  const std::vector<double> hypers{job.arguments.lr, 0.9};
  const auto batch = static_cast<std::size_t>(job.arguments.batch);
  double sum = 0;
  std::size_t steps = 0;
  for (std::size_t at = 0; at < order.size(); at += batch, ++steps) {
    const std::span<const std::uint32_t> part(&order[at], std::min(batch, order.size() - at));
    check(job.replica.backward_begin(static_cast<double>(part.size())));
    gs::strategy::StepInput step;
    step.loss =
        model.loss(images, part, floats(job.replica.gradient(0)), floats(job.replica.gradient(1)));
    step.epoch = epoch;
    step.hypers = hypers;
    check(job.replica.ready(1));
    check(job.replica.ready(0));
    const std::vector<bool> present = check(job.replica.backward_end({true, true}));
    if (!job.replica.uses_server()) check(job.optimizer.apply(job.replica, present, hypers));
    const gs::strategy::StepReport report = check(job.replica.step(step));
    if (report.switched && job.session.rank().value == 0) {
      std::printf("switched to %s after step %lld\n", report.switched->to.c_str(),
                  static_cast<long long>(report.switched->step));
    }
    sum += step.loss;
  }
  // Ranks may have one batch more or less: who had fewer takes over the state of one that had most.
  // Not where servers have it, nor under local SGD, where each rank has its own.
  const auto joined = check(job.replica.join());
  const bool has_the_others = !job.replica.uses_server() && !job.replica.is_local();
  if (joined.steps_differ && has_the_others) {
    check(job.optimizer.take_over(job.session.workers(), joined.root));
  }
  return steps == 0 ? 0 : sum / static_cast<double>(steps);
}

void work(gs::Session& session, const Arguments& arguments) {
  const Images train = read_images(arguments.data, "train");
  const Images test = read_images(arguments.data, "t10k");
  const auto workers = static_cast<std::size_t>(session.world_size());
  const auto rank = static_cast<std::size_t>(session.rank().value);
  const std::size_t per_worker = (train.count() + workers - 1) / workers;
  const auto batch = static_cast<std::size_t>(arguments.batch);

  gs::strategy::ReplicaOptions options;
  options.parameters = {{"weights", {kClasses, kPixels}, gs::base::DType::kF32, 0},
                        {"bias", {kClasses}, gs::base::DType::kF32, 0}};
  options.optimizer = gs::ps::OptimizerSpec{"sgd", {"lr", "momentum"}, 1};
  options.strategy = strategy_for(
      arguments, static_cast<std::int64_t>((per_worker + batch - 1) / batch) * arguments.epochs);
  const auto optimizer = check(gs::LocalOptimizer::create(options.parameters, *options.optimizer));
  options.bridge = optimizer.get();
  const auto replica = check(session.distribute(options));
  check(replica->start());

  double accuracy = 0;
  for (int epoch = 0; epoch < arguments.epochs; ++epoch) {
    std::vector<std::uint32_t> all(train.count());
    std::iota(all.begin(), all.end(), 0U);
    std::shuffle(all.begin(), all.end(), std::mt19937(static_cast<unsigned>(epoch)));
    std::vector<std::uint32_t> mine;
    for (std::size_t i = rank; i < all.size(); i += workers) mine.push_back(all[i]);
    const double loss = train_epoch({session, *replica, *optimizer, arguments}, train, mine, epoch);
    const Model model(floats(replica->parameter(0)), floats(replica->parameter(1)));
    accuracy = test_accuracy(session, model, test);
    if (rank == 0) std::printf("epoch %d loss %.4f test accuracy %.4f\n", epoch, loss, accuracy);
  }
  check(replica->stop());
}

void run(const Arguments& arguments) {
  const auto session = check(gs::Session::create(check(gs::SessionOptions::from_environment())));
  try {
    if (session->is_server()) {
      check(session->serve());  // until all workers have left
    } else {
      work(*session, arguments);
    }
  } catch (const std::exception& error) {
    session->fail({gs::base::ErrorCode::kAborted, error.what()});  // the others learn why
    throw;
  }
  check(session->close());
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run(parse(argc, argv));
    return 0;
  } catch (const Failure& error) {
    std::fprintf(stderr, "logistic_regression: %s\n", error.what());
    return error.exit_code();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "logistic_regression: %s\n", error.what());
    return 1;
  }
}
