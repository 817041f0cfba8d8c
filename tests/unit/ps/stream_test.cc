#include <gtest/gtest.h>

#include <memory>
#include <utility>
#include <vector>

#include "cluster.h"
#include "ps/links.h"
#include "ps/protocol.h"

namespace gearshift::ps {
namespace {

constexpr std::uint16_t kModel = 3;

/// A worker that speaks the wire format by hand, so that a commit can come before its gradients.
class Speaker {
 public:
  Speaker(Cluster& cluster, int worker, int server)
      : cluster_(cluster),
        worker_(worker),
        link_(link_to(cluster.group(worker), base::Rank(server))) {
    for (std::uint16_t i = 0; i < slices().size(); ++i) {
      answers_.push_back(link_.recv(reply_tag(kModel, 1, i),
                                    cluster.parameters(worker)[slices()[i].bucket].view()));
    }
    end_ = link_.recv(reply_tag(kModel, 1, kReplyPart), base::writable_bytes_of(reply));
  }
  Speaker(const Speaker&) = delete;
  Speaker& operator=(const Speaker&) = delete;
  ~Speaker() {
    for (auto& request : sent_) EXPECT_TRUE(wait(request));
  }

  const std::vector<Slice>& slices() const { return cluster_.layout().shards[0]; }

  void commit(double clip_norm = 0) {
    record_ = encode(CommitRecord{.step = 1,
                                  .samples = 1,
                                  .clip_norm = clip_norm,
                                  .last_attempt = 1,
                                  .attempts = std::vector<std::uint64_t>(slices().size(), 1),
                                  .present = {},
                                  .hypers = {1, 1}});
    send({.kind = Kind::kCommit, .request = 1}, {record_.data(), record_.size()});
  }
  void stage(std::uint32_t slice) {
    send({.kind = Kind::kStage, .slice = slice, .attempt = 1},
         std::as_const(cluster_.gradients(worker_)[slices()[slice].bucket]).view());
  }
  bool wait_for_slice(std::uint32_t slice) { return wait(answers_[slice]); }
  bool wait_for_end() { return wait(end_); }

  ReplyWire reply;

 private:
  bool wait(transport::Request& request) const {
    return request.wait(cluster_.group(worker_).deadline()).ok();
  }
  void send(const Head& head, base::ConstBytes body) {
    const auto bytes = encode(head);
    sent_.push_back(link_.send(request_tag(kModel), {bytes.data(), bytes.size()}, body));
  }

  Cluster& cluster_;
  int worker_;
  transport::Connection& link_;
  std::vector<std::byte> record_;
  std::vector<transport::Request> answers_, sent_;
  transport::Request end_;
};

double change(Cluster& cluster, int worker, std::size_t parameter) {
  return value_of(cluster.model, cluster.parameters(worker), parameter, 0) -
         initial_value(parameter, 0);
}

TEST(Stream, ASliceIsAnsweredWhileOthersAreUnderWay) {
  for (const Consistency consistency :
       {Consistency::bsp(), Consistency::ssp(1), Consistency::asp()}) {
    Cluster cluster({.workers = 1, .servers = {0}, .consistency = consistency});
    cluster.fill_gradients(0, 3);
    Speaker worker(cluster, 0, 0);
    worker.commit();
    for (const std::uint32_t slice : {2U, 0U}) {
      worker.stage(slice);
      ASSERT_TRUE(worker.wait_for_slice(slice)) << consistency.to_string();
    }
    EXPECT_NEAR(change(cluster, 0, 5), -3, 1e-12);
    EXPECT_EQ(cluster.shard(0).stats().applies, 0) << "the update is not over";
    worker.stage(1);
    ASSERT_TRUE(worker.wait_for_end());
    EXPECT_EQ(worker.reply.version, 1);
    EXPECT_EQ(cluster.shard(0).stats().applies, 1);
  }
}

TEST(Stream, BspWaitsForEveryWorkersPartOfTheSlice) {
  Cluster cluster({.workers = 2, .servers = {0}});
  cluster.fill_gradients(0, 2);
  cluster.fill_gradients(1, 4);
  Speaker first(cluster, 0, 0), second(cluster, 1, 0);
  first.commit();
  for (const std::uint32_t slice : {0U, 1U, 2U}) first.stage(slice);
  second.commit();
  second.stage(1);
  ASSERT_TRUE(first.wait_for_slice(1));
  ASSERT_TRUE(second.wait_for_slice(1));
  EXPECT_NEAR(change(cluster, 0, 4), -3, 1e-12);
  EXPECT_NEAR(change(cluster, 1, 4), -3, 1e-12);
  second.stage(0);
  second.stage(2);
  ASSERT_TRUE(first.wait_for_end());
  ASSERT_TRUE(second.wait_for_end());
}

TEST(Stream, AspTakesInWorkersThatInterleave) {
  Cluster cluster({.workers = 2, .servers = {0}, .consistency = Consistency::asp()});
  cluster.fill_gradients(0, 2);
  cluster.fill_gradients(1, 4);
  {
    Speaker first(cluster, 0, 0), second(cluster, 1, 0);
    first.commit();
    second.commit();
    first.stage(0);
    ASSERT_TRUE(first.wait_for_slice(0));
    for (const std::uint32_t slice : {0U, 1U, 2U}) second.stage(slice);
    ASSERT_TRUE(second.wait_for_end());
    EXPECT_EQ(cluster.shard(0).stats().applies, 1) << "the first update is not over";
    EXPECT_EQ(second.reply.staleness, 1) << "but it began before, and counts";
    EXPECT_EQ(second.reply.version, 2);
    EXPECT_NEAR(change(cluster, 1, 0), -6, 1e-12);
    EXPECT_NEAR(change(cluster, 1, 4), -4, 1e-12);
    first.stage(1);
    first.stage(2);
    ASSERT_TRUE(first.wait_for_end());
    EXPECT_EQ(first.reply.staleness, 0);
    EXPECT_EQ(first.reply.version, 1) << "the second update counts in the worker's next step";
  }
  EXPECT_EQ(cluster.shard(0).stats().applies, 2);
  ASSERT_TRUE(cluster.client(0).pull(views(cluster.parameters(0))).ok());
  for (const std::size_t parameter : {0U, 4U, 5U}) {
    EXPECT_NEAR(change(cluster, 0, parameter), -6, 1e-12);
  }
}

TEST(Stream, ANormNeedsTheWholeGradient) {
  Cluster cluster({.workers = 1, .servers = {0}});
  cluster.fill_gradients(0, 3);
  Speaker worker(cluster, 0, 0);
  worker.commit(/*clip_norm=*/1);
  for (const std::uint32_t slice : {2U, 1U, 0U}) worker.stage(slice);
  ASSERT_TRUE(worker.wait_for_end());
  double squares = 0;
  for (std::size_t p = 0; p < cluster.model.parameters.size(); ++p) {
    const double each = cluster.model.parameters[p].size > 0 ? change(cluster, 0, p) : 0;
    squares += each * each * static_cast<double>(cluster.model.parameters[p].size);
  }
  EXPECT_NEAR(squares, 1, 1e-5);
}

}  // namespace
}  // namespace gearshift::ps
