// Least squares with a dozen parameters under any strategy: a job that starts fast, trains for as
// long as a test wants, and tells the test where it is. Also the dedicated server of such a job.
//
// Worker r fits y = x·w + b to rows of numbers that anybody can compute (see `row`), so that a test
// knows the exact result. Ends with 0; with 75 when it lost a peer; with 1 after any other error.
// SIGUSR1 prints where every rank is.

#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <span>
#include <stdexcept>
#include <stop_token>
#include <thread>
#include <vector>

#include "options.h"

namespace toy {
namespace {

namespace gs = gearshift;
using gs::base::ErrorCode;

constexpr std::size_t kWidth = 12;
constexpr int kRows = 8;  ///< per worker
constexpr double kLr = 0.02;
constexpr double kMomentum = 0.5;
constexpr int kPeerLost = 75;

class Failure : public std::runtime_error {
 public:
  explicit Failure(gs::base::Error error) : runtime_error(error.to_string()), error_(error) {}
  int exit_code() const {
    const ErrorCode code = error_.code;
    const bool echo = code == ErrorCode::kPeerLost || code == ErrorCode::kAborted ||
                      code == ErrorCode::kTimeout || code == ErrorCode::kClosed;
    return echo ? kPeerLost : 1;
  }

 private:
  gs::base::Error error_;
};

template <typename T>
T check(gs::base::Result<T> result) {
  if (!result) throw Failure(result.error());
  return std::move(result).value();
}
void check(const gs::base::Status& status) {
  if (!status) throw Failure(status.error());
}

void pause(int ms) {
  if (ms > 0) std::this_thread::sleep_for(std::chrono::milliseconds(ms));
}

/// Says in a file of its own where this rank is: "pid phase step".
class Diary {
 public:
  Diary(const std::string& folder, int rank) {
    if (!folder.empty()) path_ = folder + "/rank-" + std::to_string(rank);
  }
  void note(const std::string& phase, std::int64_t step = 0) {
    if (path_.empty()) return;
    const std::string draft = path_ + ".draft";
    std::ofstream(draft) << ::getpid() << ' ' << phase << ' ' << step << '\n';
    std::rename(draft.c_str(), path_.c_str());
  }

 private:
  std::string path_;
};

/// The optimizer of a framework that takes its time to hand over its state.
class SlowBridge final : public gs::strategy::OptimizerBridge {
 public:
  SlowBridge(gs::LocalOptimizer& inner, Diary& diary, int ms)
      : inner_(inner), diary_(diary), ms_(ms) {}
  gs::base::Result<std::vector<gs::ps::StateEntry>> export_state() override {
    linger("switch");
    return inner_.export_state();
  }
  gs::base::Status import_state(std::vector<gs::ps::StateEntry> state) override {
    linger("back");
    return inner_.import_state(std::move(state));
  }

 private:
  void linger(const std::string& phase) {
    diary_.note(phase);
    pause(ms_);
  }
  gs::LocalOptimizer& inner_;
  Diary& diary_;
  int ms_;
};

/// Prints the hang report at each SIGUSR1. The signal must be blocked in all threads.
class Reporter {
 public:
  explicit Reporter(const gs::Session& session)
      : thread_([&session](const std::stop_token& stop) {
          sigset_t set;
          sigemptyset(&set);
          sigaddset(&set, SIGUSR1);
          const timespec slice{0, 50'000'000};
          while (!stop.stop_requested()) {
            if (sigtimedwait(&set, nullptr, &slice) == SIGUSR1) {
              std::fprintf(stderr, "%s\n", session.hang_report().c_str());
            }
          }
        }) {}

 private:
  std::jthread thread_;
};

void block_report_signal() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  sigprocmask(SIG_BLOCK, &set, nullptr);
}

/// Feature j of row i of worker `rank`; the target of a row is its `kWidth`th feature.
double row(int rank, int i, std::size_t j) {
  return std::sin(1.0 + 11 * rank + 3 * i + 7 * static_cast<double>(j));
}

std::span<double> doubles(gs::base::Bytes bytes) {
  return {reinterpret_cast<double*>(bytes.data()), bytes.size() / sizeof(double)};
}

/// Mean squared error of this worker's rows; fills the gradients.
double loss_and_gradient(int rank, gs::Replica& replica) {
  const std::span<const double> w = doubles(replica.parameter(0));
  const double b = doubles(replica.parameter(1))[0];
  const std::span<double> dw = doubles(replica.gradient(0));
  double& db = doubles(replica.gradient(1))[0];
  std::fill(dw.begin(), dw.end(), 0.0);
  db = 0;
  double loss = 0;
  for (int i = 0; i < kRows; ++i) {
    double error = b - row(rank, i, kWidth);
    for (std::size_t j = 0; j < kWidth; ++j) error += row(rank, i, j) * w[j];
    loss += error * error / kRows;
    for (std::size_t j = 0; j < kWidth; ++j) dw[j] += 2 * error * row(rank, i, j) / kRows;
    db += 2 * error / kRows;
  }
  return loss;
}

std::string phase_of(const gs::Replica& replica) {
  if (replica.is_local()) return "local_sgd";
  return replica.uses_server() ? "server" : "all_reduce";
}

void train(gs::Session& session, gs::Replica& replica, gs::LocalOptimizer& optimizer,
           const Options& options, Diary& diary) {
  const gs::ps::HyperValues hypers{kLr, kMomentum};
  for (std::int64_t step = 1; options.steps == 0 || step <= options.steps; ++step) {
    pause(options.step_ms);
    check(replica.backward_begin(kRows));
    gs::strategy::StepInput input;
    input.loss = loss_and_gradient(session.rank().value, replica);
    input.hypers = hypers;
    check(replica.ready(1));
    check(replica.ready(0));
    const std::vector<bool> present = check(replica.backward_end({true, true}));
    if (!replica.uses_server()) check(optimizer.apply(replica, present, hypers));
    check(replica.step(input));
    diary.note(phase_of(replica), step);
  }
  diary.note("end", options.steps);
  pause(options.end_ms);
  check(replica.join());
}

void print_result(gs::Session& session, gs::Replica& replica) {
  if (session.rank().value != 0) return;
  std::string text = "result";
  for (const std::uint32_t p : {0U, 1U}) {
    for (const double value : doubles(replica.parameter(p))) {
      char number[32];
      std::snprintf(number, sizeof number, " %.17g", value);
      text += number;
    }
  }
  std::printf("%s\n", text.c_str());
}

void work(gs::Session& session, const Options& options, Diary& diary) {
  gs::strategy::ReplicaOptions how;
  how.parameters = {{"w", {kWidth}, gs::base::DType::kF64, 0},
                    {"b", {1}, gs::base::DType::kF64, 0}};
  how.optimizer = gs::ps::OptimizerSpec{"sgd", {"lr", "momentum"}, 1};
  how.strategy = strategy_of(options);
  const auto optimizer = check(gs::LocalOptimizer::create(how.parameters, *how.optimizer));
  SlowBridge bridge(*optimizer, diary, options.switch_ms);
  how.bridge = &bridge;
  const auto replica = check(session.distribute(how));
  check(replica->start());
  train(session, *replica, *optimizer, options, diary);
  print_result(session, *replica);
  check(replica->stop());
}

void run(const Options& options) {
  const gs::SessionOptions how = check(gs::SessionOptions::from_environment());
  Diary diary(options.progress, how.rank);
  diary.note("start");
  block_report_signal();
  const auto session = check(gs::Session::create(how));
  const Reporter reporter(*session);
  if (session->is_server()) {
    diary.note("serve");
    check(session->serve());
  } else {
    work(*session, options, diary);
  }
  check(session->close());
}

}  // namespace
}  // namespace toy

int main(int argc, char** argv) {
  try {
    toy::run(toy::parse(argc, argv));
    return 0;
  } catch (const toy::Failure& failure) {
    std::fprintf(stderr, "toy_trainer: %s\n", failure.what());
    return failure.exit_code();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "toy_trainer: %s\n", error.what());
    return 1;
  }
}
