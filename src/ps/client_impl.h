#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gearshift/ps/client.h"
#include "ps/links.h"
#include "ps/protocol.h"

namespace gearshift::ps {

struct Client::Impl {
  Impl(group::Group g, ClientOptions o);

  const Layout& layout() const { return *options.layout; }
  std::size_t shard_count() const { return options.servers.size(); }
  transport::Connection& link(std::size_t shard) const {
    return link_to(group, options.servers[shard]);
  }
  /// Sends without a receive of its own; what `body` views must live until `sends` are waited for.
  void send(std::size_t shard, const Head& head, base::ConstBytes body,
            std::vector<transport::Request>& sends) const {
    const auto bytes = encode(head);
    sends.push_back(
        link(shard).send(request_tag(options.model), {bytes.data(), bytes.size()}, body));
  }
  void lend_gradients();
  base::Status check_buckets(const std::vector<base::ConstBytes>& buckets) const;
  base::Status check_staged() const;
  /// Lets go of the sends that are done, whenever there are twice as many as the last time.
  void sweep_staged();
  base::Status wait_staged(base::TimePoint deadline);
  CommitRecord record_for(std::size_t shard, const Commit& commit) const;
  /// A request without contents, answered by every shard with a ReplyWire alone.
  base::Status ask_all(Kind kind, std::int64_t step, const std::string& what);
  base::Result<Reply> ask_parameters(Kind kind, const std::string& what,
                                     const std::vector<std::vector<std::byte>>& bodies,
                                     const std::vector<base::Bytes>& parameters);

  group::Group group;
  const ClientOptions options;
  base::Status usable;  ///< why nothing can be done with these options, if so
  /// Where a bucket's parts go: (shard, slice of the shard).
  std::map<std::uint32_t, std::vector<std::pair<std::size_t, std::uint32_t>>> owners;

  std::uint32_t last_request = 0;
  std::uint64_t last_attempt = 0;
  std::vector<std::vector<std::uint64_t>> attempts;  ///< [shard][slice]; 0: not staged yet
  struct StagedSend {
    transport::Request request;
    base::Buffer half{};  ///< what is sent, where it is not the gradient itself
  };
  /// Begins to send a gradient, or its half, to the shard that owns the slice.
  StagedSend send_gradient(std::size_t shard, const Head& head, base::ConstBytes gradient) const;
  std::vector<StagedSend> staged;  ///< sends of the step under way
  std::size_t swept = 0;           ///< what was left of them the last time
  std::vector<std::unique_ptr<transport::LentRegion>> loans;
  std::vector<std::int64_t> versions;  ///< of the parameters that this worker has
  bool left = false;
};

/// One request to all shards: the receives posted for its answers, and its sends. However it ends,
/// nothing of it touches memory afterwards.
class Exchange {
 public:
  /// `what` names it in errors and progress reports: "push step 12".
  Exchange(Client::Impl& client, std::string what);
  ~Exchange() { cancel(); }
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;

  std::uint32_t request() const { return request_; }
  Head head(Kind kind) const { return {.kind = kind, .request = request_}; }

  void receive(std::size_t shard, std::uint16_t part, base::Bytes into);
  /// The answer's fixed-size part, found in `replies` after `finish`.
  void receive_reply(std::size_t shard) {
    receive(shard, kReplyPart, base::writable_bytes_of(replies[shard]));
  }
  void send(std::size_t shard, const Head& head, base::ConstBytes body = {}) {
    client_.send(shard, head, body, sends_);
  }
  /// Waits until everything posted so far is here and everything sent has left.
  base::Status finish();

  std::vector<ReplyWire> replies;  ///< by shard

 private:
  struct Awaited {
    std::size_t shard;
    transport::Request request;
  };
  void cancel();
  base::Error late(std::size_t shard, const base::Error& error) const;

  Client::Impl& client_;
  const std::string what_;
  const std::uint32_t request_;
  group::ProgressScope progress_;
  std::vector<Awaited> awaited_;
  std::vector<transport::Request> sends_;
};

}  // namespace gearshift::ps
