#include "conformance/transport_conformance.h"
#include "gearshift/transport/tcp/factory.h"

namespace gearshift::testing {
namespace {

class TcpMaker final : public TransportMaker {
 public:
  TcpMaker(base::Scheduler& scheduler, transport::tcp::Options options)
      : scheduler_(scheduler), options_(std::move(options)) {}

  base::Result<std::unique_ptr<transport::Transport>> make(
      std::shared_ptr<transport::Router> router, transport::Identity identity) override {
    return transport::tcp::create(scheduler_, std::move(router), std::move(identity), options_);
  }

 private:
  base::Scheduler& scheduler_;
  const transport::tcp::Options options_;
};

MakeTransportMaker with(transport::tcp::Options options) {
  return [options](base::Scheduler& scheduler) {
    return std::make_unique<TcpMaker>(scheduler, options);
  };
}

INSTANTIATE_TEST_SUITE_P(Default, TransportConformance, ::testing::Values(with({})));
INSTANTIATE_TEST_SUITE_P(OneStream, TransportConformance, ::testing::Values(with({.streams = 1})));
INSTANTIATE_TEST_SUITE_P(FourStreamsSmallStripes, TransportConformance,
                         ::testing::Values(with({.streams = 4, .stripe_bytes = 1000})));

}  // namespace
}  // namespace gearshift::testing
