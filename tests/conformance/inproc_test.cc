#include "conformance/transport_conformance.h"
#include "gearshift/transport/inproc/factory.h"

namespace gearshift::testing {
namespace {

class InprocMaker final : public TransportMaker {
 public:
  explicit InprocMaker(base::Scheduler& scheduler) : hub_(transport::inproc::make_hub(scheduler)) {}

  base::Result<std::unique_ptr<transport::Transport>> make(
      std::shared_ptr<transport::Router> router, transport::Identity identity) override {
    return transport::inproc::create(hub_, std::move(router), std::move(identity));
  }
  bool carries_phantoms() const override { return true; }

 private:
  const std::shared_ptr<transport::inproc::Hub> hub_;
};

INSTANTIATE_TEST_SUITE_P(Inproc, TransportConformance,
                         ::testing::Values([](base::Scheduler& scheduler) {
                           return std::make_unique<InprocMaker>(scheduler);
                         }));

}  // namespace
}  // namespace gearshift::testing
