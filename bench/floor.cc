// What memory allows for an all-reduce on one host: processes that share everything from the start.
//
//   floor --ranks 2 bytes=1048576 operations=100
//
// The program forks; each rank owns one shared mapping, which all see. An all-reduce is a barrier,
// a sum of each rank's slice over all mappings, written back to all mappings, and a barrier. No
// library that has to find its peers, to watch over them and to take any array can be faster by
// more than the noise.

#include <sched.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/all_reduce_rounds.h"
#include "support/sum_slices.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

namespace bench = gearshift::bench;

constexpr std::size_t kLimit = std::size_t{1} << 28;  // of an array; only what is touched is used
constexpr int kMaxRanks = 64;
/// Between the starts of two ranks' arrays, modulo a page and in pages: arrays at equal places of
/// their mappings would compete for the same ways of some processors' caches.
constexpr std::size_t kStagger = 5 * 4096 + 9 * 64;

void pause_briefly() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

/// A barrier over cache lines, one per rank: each says how many barriers it has come to.
class Barrier {
 public:
  Barrier(int ranks, int spins) : ranks_(ranks), spins_(spins) {}

  void wait(int rank) {
    const unsigned mine = arrived_[rank].count.load(std::memory_order_relaxed) + 1;
    arrived_[rank].count.store(mine, std::memory_order_release);
    for (int r = 0; r < ranks_; ++r) {
      for (int spins = 0; behind(r, mine); ++spins) {
        if (spins < spins_) {
          pause_briefly();
        } else {
          ::sched_yield();
        }
      }
    }
  }

 private:
  struct alignas(64) Line {
    std::atomic<unsigned> count{0};
  };
  bool behind(int rank, unsigned mine) const {
    return static_cast<int>(arrived_[rank].count.load(std::memory_order_acquire) - mine) < 0;
  }

  const int ranks_;
  const int spins_;
  Line arrived_[kMaxRanks];
};

void* map_shared(std::size_t bytes) {
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::runtime_error(std::string("mmap: ") + std::strerror(errno));
  return memory;
}

struct World {
  std::vector<float*> arrays;
  Barrier* barrier = nullptr;
};

class FloorSubject : public bench::Subject {
 public:
  FloorSubject(const World& world, int rank) : world_(world), rank_(rank) {}

  std::byte* memory(std::size_t bytes) override {
    if (bytes > kLimit) throw std::invalid_argument("bytes: more than the mappings have");
    return reinterpret_cast<std::byte*>(world_.arrays[static_cast<std::size_t>(rank_)]);
  }
  void all_reduce(std::byte*, std::size_t bytes) override {
    const std::size_t lines = (bytes / sizeof(float) + 15) / 16;  // of 64 bytes
    const std::size_t ranks = world_.arrays.size();
    const auto rank = static_cast<std::size_t>(rank_);
    const std::size_t begin = lines * rank / ranks * 16;
    const std::size_t end = std::min(lines * (rank + 1) / ranks * 16, bytes / sizeof(float));
    world_.barrier->wait(rank_);
    if (begin < end) {
      bench::sum_slices(world_.arrays.data(), static_cast<int>(ranks), begin, end);
    }
    world_.barrier->wait(rank_);
  }

 private:
  const World& world_;
  const int rank_;
};

World make_world(int ranks) {
  World world;
  for (int r = 0; r < ranks; ++r) {
    const std::size_t offset = static_cast<std::size_t>(r) * kStagger;
    auto* mapping = static_cast<std::byte*>(map_shared(kLimit + offset));
    world.arrays.push_back(reinterpret_cast<float*>(mapping + offset));
  }
  // Who waits for a rank that has no core had better give its own away soon.
  const int spins = ranks <= ::sysconf(_SC_NPROCESSORS_ONLN) ? 2'000 : 50;
  world.barrier = new (map_shared(sizeof(Barrier))) Barrier(ranks, spins);
  return world;
}

int run_rank(const World& world, int rank, int argc, char** argv) {
  try {
    FloorSubject subject(world, rank);
    bench::Gate gate(rank, argc, argv);
    const int ranks = static_cast<int>(world.arrays.size());
    bench::serve_all_reduce(gate, subject, bench::Element::kFloat32, rank, ranks);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "floor: %s\n", error.what());
    return 1;
  }
}

int run(int argc, char** argv) {
  const int ranks = std::stoi(bench::option(argc, argv, "--ranks", "2"));
  if (ranks < 1 || ranks > kMaxRanks) throw std::invalid_argument("--ranks: 1 to 64");
  const World world = make_world(ranks);
  for (int rank = 1; rank < ranks; ++rank) {
    if (::fork() == 0) ::_exit(run_rank(world, rank, argc, argv));
  }
  int code = run_rank(world, 0, argc, argv);
  for (int status = 0; ::wait(&status) > 0;) code |= status == 0 ? 0 : 1;
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    std::fprintf(stderr, "floor: %s\n", bench::instruction_set());
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "floor: %s\n", error.what());
    return 1;
  }
}
