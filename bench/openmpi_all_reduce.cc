// Open MPI's MPI_Allreduce, in place, float32: a peer in the comparison of collectives.
//
//   mpirun -np 2 openmpi_all_reduce bytes=1048576 operations=100

#include <mpi.h>

#include <cstdio>
#include <exception>
#include <stdexcept>

#include "support/all_reduce_rounds.h"

namespace {

namespace bench = gearshift::bench;

class MpiSubject : public bench::Subject {
 public:
  ~MpiSubject() override { release(); }

  std::byte* memory(std::size_t bytes) override {
    if (bytes != bytes_) {
      release();
      MPI_Alloc_mem(static_cast<MPI_Aint>(bytes), MPI_INFO_NULL, &memory_);
      bytes_ = bytes;
    }
    return memory_;
  }
  void all_reduce(std::byte* data, std::size_t bytes) override {
    const int count = static_cast<int>(bytes / sizeof(float));
    if (MPI_Allreduce(MPI_IN_PLACE, data, count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD) !=
        MPI_SUCCESS) {
      throw std::runtime_error("MPI_Allreduce failed");
    }
  }

 private:
  void release() {
    if (memory_ != nullptr) MPI_Free_mem(memory_);
    memory_ = nullptr;
  }

  std::byte* memory_ = nullptr;
  std::size_t bytes_ = 0;
};

void run(int argc, char** argv) {
  int rank = 0;
  int ranks = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  MpiSubject subject;
  bench::Gate gate(rank, argc, argv);
  bench::serve_all_reduce(gate, subject, bench::Element::kFloat32, rank, ranks);
}

}  // namespace

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  try {
    run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "openmpi_all_reduce: %s\n", error.what());
    MPI_Abort(MPI_COMM_WORLD, 1);
  }
  MPI_Finalize();
  return 0;
}
