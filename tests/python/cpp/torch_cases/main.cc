// The header for libtorch as its users compile it: cases of its own, the program that docs/cpp.md
// shows and the example, in one source file, since libtorch's headers take long to compile.
//
//   torch_cases cases [NAME...]    every rank prints "RANK NAME ok", or what was wrong
//   torch_cases die                the last rank ends without a word in the third step
//   torch_cases scarce             no thread is left to join several modules with
//   torch_cases documented
//   torch_cases example [ARGUMENT...]

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <future>
#include <string>
#include <thread>
#include <vector>

#include "around.h"
#include "equality.h"
#include "gearshift/torch/distribute.h"  // first: it must need nothing else
#include "local.h"
#include "local_state.h"
#include "local_writes.h"
#include "refusals.h"
#include "toy.h"

#define main example_main
#include "torch_mnist/main.cc"
#undef main

namespace documented {

using cases::Net;

int main() {
  const auto [x, y] = cases::batch_of(0, 0);
#include "documented.inc"
  return 0;
}

}  // namespace documented

namespace cases {
namespace {

void run_cases(gs::Session& session, const std::vector<std::string>& names) {
  for (const Entry& entry : all()) {
    if (!names.empty() && std::find(names.begin(), names.end(), entry.name) == names.end()) {
      continue;
    }
    std::string outcome = "ok";
    try {
      entry.run(session);
    } catch (const std::exception& error) {
      outcome = error.what();
    }
    std::printf("%d %s %s\n", session.rank().value, entry.name.c_str(), outcome.c_str());
    std::fflush(stdout);
    if (outcome != "ok") throw std::runtime_error(entry.name + ": " + outcome);
  }
}

void die(gs::Session& session) {
  Trained trained(session, {all_reduce()});
  for (int s = 0; s < 6; ++s) {
    if (s == 2 && trained.rank == session.world_size() - 1) ::_exit(3);
    trained.step(batch_of(trained.rank, s));
  }
}

/// A process that can have no more threads when it joins: their stacks are too large for it, and
/// others take those of threads that have ended.
void lack_a_thread(gs::Session& session) {
  Trained one(session, {server()}), two(session, {server()});
  std::promise<void> over;
  const std::shared_future<void> until = over.get_future().share();
  std::vector<std::thread> idle;
  for (int i = 0; i < 16; ++i) idle.emplace_back([until] { until.wait(); });
  long pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  const auto room = static_cast<rlim_t>(pages * ::sysconf(_SC_PAGESIZE) + (1 << 20));
  const rlimit none{room, RLIM_INFINITY};
  ::setrlimit(RLIMIT_AS, &none);
  const gs::base::Status joined_well =
      gs::torch::join({one.distributed.get(), two.distributed.get()});
  over.set_value();
  for (std::thread& t : idle) t.join();
  or_throw(joined_well);
}

int run(const std::string& what, const std::vector<std::string>& names) {
  torch::set_num_threads(1);
  const auto session =
      or_throw(gs::Session::create(or_throw(gs::SessionOptions::from_environment())));
  try {
    if (session->is_server()) {
      or_throw(session->serve());
    } else if (what == "die") {
      die(*session);
    } else if (what == "scarce") {
      lack_a_thread(*session);
    } else {
      run_cases(*session, names);
    }
  } catch (const gs::torch::Failure& failure) {
    session->fail(failure.error());
    std::fprintf(stderr, "%s\n", failure.what());
    return failure.exit_code();
  } catch (const std::exception& error) {
    session->fail({gs::base::ErrorCode::kAborted, error.what()});
    return 1;
  }
  or_throw(session->close());
  return 0;
}

}  // namespace
}  // namespace cases

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "cases";
  if (what == "example") return example_main(argc - 1, argv + 1);
  if (what == "documented") return documented::main();
  return cases::run(what, {argv + std::min(argc, 2), argv + argc});
}
