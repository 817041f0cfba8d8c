// A small convolutional network on Fashion-MNIST with libtorch, under any strategy:
//
//   gearshift run -n 4 --strategy 'switch(at=0.5)' -- torch_mnist
//
// What makes it a distributed program: a Session, `distribute`, and in the loop `batch` before the
// backward, `step` in place of the optimizer's, and `join` at the end of an epoch.

#include <torch/torch.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "fashion_mnist/fashion_mnist.h"
#include "gearshift/gearshift.h"
#include "gearshift/torch/distribute.h"

namespace {

namespace gs = gearshift;
using gs::torch::or_throw;

constexpr const char* kUsage =
    "usage: torch_mnist [--strategy TEXT] [--data FOLDER] [--epochs N] [--batch N] [--samples N]\n"
    "without --strategy: what `gearshift run --strategy`, a job file or GEARSHIFT_STRATEGY say, "
    "or\n"
    "all_reduce; on four workers: gearshift run -n 4 --strategy ps:asp -- torch_mnist\n";

struct Arguments {
  std::string strategy;  ///< empty: what the job was started with
  std::string data = "/usr/share/datasets/fashion-mnist";
  int epochs = 2;
  int batch = 64;       ///< per worker
  int samples = 60000;  ///< of the training images
};

int whole(const std::string& name, const std::string& value) {
  char* end = nullptr;
  const long number = std::strtol(value.c_str(), &end, 10);
  if (value.empty() || *end != '\0' || number < 1 || number > 1'000'000'000) {
    throw std::invalid_argument(name + ": a whole number from 1 on, not '" + value + "'");
  }
  return static_cast<int>(number);
}

Arguments parse(int argc, char** argv) {
  Arguments a;
  for (int i = 1; i < argc; i += 2) {
    const std::string name = argv[i];
    if (name == "--help" || name == "-h") {
      std::fputs(kUsage, stdout);
      std::exit(0);
    }
    if (i + 1 >= argc) throw std::invalid_argument(name + ": no value\n" + kUsage);
    const std::string value = argv[i + 1];
    if (name == "--strategy") {
      a.strategy = value;
    } else if (name == "--data") {
      a.data = value;
    } else if (name == "--epochs") {
      a.epochs = whole(name, value);
    } else if (name == "--batch") {
      a.batch = whole(name, value);
    } else if (name == "--samples") {
      a.samples = whole(name, value);
    } else {
      throw std::invalid_argument(name + ": unknown\n" + kUsage);
    }
  }
  return a;
}

struct NetImpl : torch::nn::Module {
  NetImpl() {
    layers->push_back(torch::nn::Conv2d(torch::nn::Conv2dOptions(1, 8, 5).stride(2)));
    layers->push_back(torch::nn::BatchNorm2d(8));
    layers->push_back(torch::nn::ReLU());
    layers->push_back(torch::nn::Conv2d(torch::nn::Conv2dOptions(8, 16, 5).stride(2)));
    layers->push_back(torch::nn::ReLU());
    layers->push_back(torch::nn::Flatten());
    layers->push_back(torch::nn::Linear(16 * 4 * 4, 10));
    register_module("layers", layers);
  }
  torch::Tensor forward(const torch::Tensor& x) { return layers->forward(x); }
  torch::nn::Sequential layers;
};
TORCH_MODULE(Net);

struct Data {
  torch::Tensor images, labels;
};

Data load(const std::string& folder, const std::string& part) {
  Images read = read_images(folder, part);
  const auto n = static_cast<std::int64_t>(read.count());
  const auto bytes = torch::kUInt8;
  return {torch::from_blob(read.pixels.data(), {n, 1, 28, 28}, bytes).to(torch::kFloat) / 255,
          torch::from_blob(read.labels.data(), {n}, bytes).to(torch::kLong)};
}

double test_accuracy(gs::Session& session, Net& net, const Data& test) {
  const torch::NoGradGuard no_grad;
  net->eval();
  // Each worker looks at its part; the counts are added up.
  const auto mine = torch::arange(session.rank().value, test.labels.size(0), session.world_size());
  const auto guess = net->forward(test.images.index_select(0, mine)).argmax(1);
  double sum = (guess == test.labels.index_select(0, mine)).sum().item<double>();
  or_throw(gs::all_reduce(session.workers(), gs::base::writable_bytes_of(sum),
                          gs::base::DType::kF64, gs::base::ReduceOp::kSum));
  net->train();
  return sum / static_cast<double>(test.labels.size(0));
}

struct Job {
  gs::Session& session;
  gs::torch::Distributed& distributed;
  Net& net;
  torch::optim::Optimizer& optimizer;
  const Arguments& arguments;
};

/// One epoch over this worker's part of the data; returns its mean loss.
double train_epoch(Job job, const Data& train,
                   torch::data::samplers::DistributedRandomSampler& sampler, int epoch) {
  auto& [session, distributed, net, optimizer, arguments] = job;
  sampler.set_epoch(static_cast<std::size_t>(epoch));
  sampler.reset();
  double sum = 0;
  int steps = 0;
  while (const auto picked = sampler.next(static_cast<std::size_t>(arguments.batch))) {
    const std::vector<std::int64_t> numbers(picked->begin(), picked->end());
    const auto indices = torch::tensor(numbers);
    or_throw(distributed.batch(static_cast<double>(numbers.size())));
    optimizer.zero_grad();
    const auto scores = net->forward(train.images.index_select(0, indices));
    const auto labels = train.labels.index_select(0, indices);
    const auto loss = torch::nn::functional::cross_entropy(scores, labels);
    loss.backward();
    const auto report = or_throw(distributed.step(loss, epoch));
    if (report.switched && session.rank().value == 0) {
      std::printf("switched to %s after step %lld\n", report.switched->to.c_str(),
                  static_cast<long long>(report.switched->step));
    }
    sum += loss.item<double>();
    ++steps;
  }
  or_throw(distributed.join());  // ranks may have one batch more or less
  return steps == 0 ? 0 : sum / steps;
}

void work(gs::Session& session, const Arguments& arguments) {
  Data train = load(arguments.data, "train");
  train.images = train.images.narrow(0, 0, std::min<std::int64_t>(arguments.samples, 60000));
  const Data test = load(arguments.data, "t10k");
  const auto workers = static_cast<std::size_t>(session.world_size());
  const auto rank = static_cast<std::size_t>(session.rank().value);
  torch::data::samplers::DistributedRandomSampler sampler(
      static_cast<std::size_t>(train.images.size(0)), workers, rank, /*allow_duplicates=*/false);

  torch::manual_seed(1);
  Net net;
  torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(0.05).momentum(0.9));
  const std::int64_t steps = train.images.size(0) / session.world_size() / arguments.batch + 1;
  gs::torch::Options options;
  if (!arguments.strategy.empty()) {
    options.strategy = or_throw(gs::strategy::parse(arguments.strategy));
  }
  options.total_steps = steps * arguments.epochs;
  const auto distributed = or_throw(gs::torch::distribute(session, *net, optimizer, options));

  for (int epoch = 0; epoch < arguments.epochs; ++epoch) {
    const double loss =
        train_epoch({session, *distributed, net, optimizer, arguments}, train, sampler, epoch);
    const double accuracy = test_accuracy(session, net, test);
    if (rank == 0) std::printf("epoch %d loss %.4f test accuracy %.4f\n", epoch, loss, accuracy);
  }
  or_throw(distributed->stop());
}

void run(const Arguments& arguments) {
  const auto session =
      or_throw(gs::Session::create(or_throw(gs::SessionOptions::from_environment())));
  try {
    if (session->is_server()) {
      or_throw(session->serve());  // until all workers have left
    } else {
      work(*session, arguments);
    }
  } catch (const std::exception& error) {
    session->fail({gs::base::ErrorCode::kAborted, error.what()});  // the others learn why
    throw;
  }
  or_throw(session->close());
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run(parse(argc, argv));
    return 0;
  } catch (const gs::torch::Failure& error) {
    std::fprintf(stderr, "torch_mnist: %s\n", error.what());
    return error.exit_code();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "torch_mnist: %s\n", error.what());
    return 1;
  }
}
