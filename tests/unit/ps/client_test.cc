#include <gtest/gtest.h>

#include <cmath>
#include <utility>

#include "cluster.h"
#include "ps/links.h"
#include "ps/protocol.h"

namespace gearshift::ps {
namespace {

Commit plain_step(std::int64_t step) { return {.step = step, .present = {}, .hypers = {1, 1}}; }

double change(Cluster& cluster, int worker) {
  return value_of(cluster.model, cluster.parameters(worker), 5, 255) - initial_value(5, 255);
}

TEST(Client, StagingAgainReplaces) {
  Cluster cluster({.workers = 1, .servers = {0, 1}});
  cluster.fill_gradients(0, 5);
  ASSERT_TRUE(cluster.stage_all(0).ok());
  cluster.fill_gradients(0, 2);
  ASSERT_TRUE(cluster.push(0, plain_step(1)).ok());
  EXPECT_NEAR(change(cluster, 0), -2, 1e-12);
}

TEST(Client, RefusesWhatIsWrong) {
  Cluster cluster({.workers = 1, .servers = {0, 1}});
  const auto code = [](const auto& result) {
    return result.ok() ? std::string("ok") : base::to_string(result.error().code);
  };
  EXPECT_EQ(code(cluster.client(0).commit(plain_step(1), views(cluster.parameters(0)))),
            "invalid_argument")
      << "nothing staged";
  EXPECT_EQ(code(cluster.client(0).stage(9, {})), "invalid_argument");
  EXPECT_EQ(code(cluster.client(0).stage(0, {})), "invalid_argument");
  EXPECT_EQ(code(cluster.client(0).pull({})), "invalid_argument");
  Commit commit = plain_step(1);
  commit.samples = -1;
  EXPECT_EQ(code(cluster.push(0, commit)), "invalid_argument");
  EXPECT_EQ(code(cluster.push(0, plain_step(1))), "ok");
}

TEST(Client, OptionsThatMakeNoSense) {
  Cluster cluster({.workers = 1});
  ClientOptions options{.model = 0, .layout = nullptr, .servers = {}};
  EXPECT_FALSE(Client(cluster.group(0), options).pull({}).ok()) << "no layout";
  options.layout = std::make_shared<const Layout>(cluster.layout());
  EXPECT_FALSE(Client(cluster.group(0), options).pull({}).ok());
  options.servers = {base::Rank(7)};
  EXPECT_FALSE(Client(cluster.group(0), options).flush().ok());
  options.servers = {base::Rank(0)};
  Layout layout = cluster.layout();
  layout.shards[0].resize(kMaxSlices + 1);
  options.layout = std::make_shared<const Layout>(layout);
  EXPECT_FALSE(Client(cluster.group(0), options).flush().ok());
}

/// Speaks the wire format by hand, in an order that the client would not choose.
TEST(Client, CommitMayOvertakeItsGradients) {
  for (const int server : {0, 1}) {
    Cluster cluster({.workers = 1, .servers = {server}});
    cluster.fill_gradients(0, 3);
    transport::Connection& link = link_to(cluster.group(0), base::Rank(server));
    const auto& slices = cluster.layout().shards[0];
    std::vector<transport::Request> posted;
    for (std::uint16_t i = 0; i < slices.size(); ++i) {
      posted.push_back(
          link.recv(reply_tag(3, 1, i), cluster.parameters(0)[slices[i].bucket].view()));
    }
    ReplyWire reply;
    posted.push_back(link.recv(reply_tag(3, 1, kReplyPart), base::writable_bytes_of(reply)));

    CommitRecord record{.step = 1,
                        .samples = 1,
                        .last_attempt = 20,
                        .attempts = {12, 11, 20},
                        .present = {},
                        .hypers = {1, 1}};
    const auto send = [&](const Head& head, base::ConstBytes body) {
      const auto bytes = encode(head);
      posted.push_back(link.send(request_tag(3), {bytes.data(), bytes.size()}, body));
    };
    const auto body = encode(record);
    const base::Buffer stale(cluster.model.bucket_bytes[1]);
    send({.kind = Kind::kCommit, .request = 1}, {body.data(), body.size()});
    send({.kind = Kind::kStage, .slice = 2, .attempt = 20}, cluster.gradients(0)[2].view());
    send({.kind = Kind::kStage, .slice = 1, .attempt = 10}, stale.view());
    send({.kind = Kind::kStage, .slice = 1, .attempt = 11}, cluster.gradients(0)[1].view());
    send({.kind = Kind::kStage, .slice = 1, .attempt = 9}, stale.view());
    send({.kind = Kind::kStage, .slice = 0, .attempt = 12}, cluster.gradients(0)[0].view());
    for (auto& request : posted) {
      ASSERT_TRUE(request.wait(cluster.group(0).deadline()).ok());
    }
    EXPECT_EQ(reply.version, 1);
    EXPECT_NEAR(change(cluster, 0), -3, 1e-12);
  }
}

TEST(Client, PhantomsPass) {
  Cluster cluster({.workers = 2,
                   .servers = {0, 1},
                   .optimizer = {.kind = "adam", .hyper_names = {"lr"}, .param_groups = 2},
                   .clip_norm = 1,
                   .phantom = true});
  std::vector<base::Bytes> nothing;
  for (const std::size_t bytes : cluster.model.bucket_bytes) {
    nothing.emplace_back(static_cast<std::byte*>(nullptr), bytes);
  }
  std::vector<std::unique_ptr<base::Task>> tasks;
  for (int w = 0; w < 2; ++w) {
    tasks.push_back(cluster.scheduler().spawn("worker", [&, w] {
      for (int step = 1; step <= 3; ++step) {
        for (std::uint32_t b = 0; b < nothing.size(); ++b) {
          EXPECT_TRUE(cluster.client(w).stage(b, nothing[b]).ok());
        }
        auto reply = cluster.client(w).commit(plain_step(step), nothing);
        ASSERT_TRUE(reply.ok()) << reply.error().message;
        EXPECT_EQ(reply->version, step);
      }
    }));
  }
  tasks.clear();
  auto state = cluster.client(0).fetch_state(cluster.model.sizes(), cluster.model.dtypes());
  ASSERT_TRUE(state.ok());
  EXPECT_EQ((*state)[0].scalars.at("step"), 3);
  EXPECT_EQ((*state)[0].tensors.at("exp_avg").size(), 301 * sizeof(double));
}

}  // namespace
}  // namespace gearshift::ps
