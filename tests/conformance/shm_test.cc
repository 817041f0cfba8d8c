#include "conformance/transport_conformance.h"
#include "gearshift/transport/shm/factory.h"

namespace gearshift::testing {
namespace {

class ShmMaker final : public TransportMaker {
 public:
  ShmMaker(base::Scheduler& scheduler, std::size_t ring_bytes)
      : scheduler_(scheduler), ring_bytes_(ring_bytes) {}

  base::Result<std::unique_ptr<transport::Transport>> make(
      std::shared_ptr<transport::Router> router, transport::Identity identity) override {
    return transport::shm::create(scheduler_, std::move(router), std::move(identity),
                                  {.ring_bytes = ring_bytes_});
  }
  bool shares_regions() const override { return true; }

 private:
  base::Scheduler& scheduler_;
  const std::size_t ring_bytes_;
};

MakeTransportMaker with_ring(std::size_t bytes) {
  return
      [bytes](base::Scheduler& scheduler) { return std::make_unique<ShmMaker>(scheduler, bytes); };
}

INSTANTIATE_TEST_SUITE_P(Shm, TransportConformance, ::testing::Values(with_ring(1 << 20)));
// Everything wraps around, and nothing of size fits.
INSTANTIATE_TEST_SUITE_P(ShmTinyRing, TransportConformance, ::testing::Values(with_ring(4096)));

}  // namespace
}  // namespace gearshift::testing
