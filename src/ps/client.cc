#include "gearshift/ps/client.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "gearshift/kernels/half.h"
#include "ps/client_impl.h"
#include "ps/layout_check.h"

namespace gearshift::ps {
namespace {

using base::Error;
using base::ErrorCode;

base::Status check_options(const group::Group& group, const ClientOptions& options) {
  GEARSHIFT_RETURN_IF_ERROR(check_loopback(group));
  if (options.servers.empty() || options.layout == nullptr ||
      options.servers.size() != options.layout->shards.size()) {
    return Error(ErrorCode::kInvalidArgument,
                 std::to_string(options.servers.size()) + " servers for " +
                     std::to_string(options.layout ? options.layout->shards.size() : 0) +
                     " shards");
  }
  for (std::size_t k = 0; k < options.servers.size(); ++k) {
    if (options.servers[k].value < 0 || options.servers[k].value >= group.size()) {
      return Error(ErrorCode::kInvalidArgument,
                   "shard " + std::to_string(k) + " is said to be on rank " +
                       std::to_string(options.servers[k].value) + " of a group of " +
                       std::to_string(group.size()));
    }
    const auto any_group = std::numeric_limits<std::uint32_t>::max();
    GEARSHIFT_RETURN_IF_ERROR(check_slices(options.layout->shards[k], any_group));
  }
  return {};
}

base::ConstBytes view(const std::vector<std::byte>& bytes) { return {bytes.data(), bytes.size()}; }

}  // namespace

Client::Impl::Impl(group::Group g, ClientOptions o)
    : group(std::move(g)), options(std::move(o)), usable(check_options(group, options)) {
  versions.resize(shard_count());
  if (!options.layout) return;
  const std::size_t shards = layout().shards.size();
  for (const auto& slices : layout().shards) attempts.emplace_back(slices.size());
  // Each worker begins with another shard: if all sent to the same one first, its link would be
  // flooded while the others wait.
  for (std::size_t n = 1; n <= shards; ++n) {
    const std::size_t k = (static_cast<std::size_t>(group.rank().value) + n) % shards;
    const auto& slices = layout().shards[k];
    for (std::uint32_t i = 0; i < slices.size(); ++i) owners[slices[i].bucket].emplace_back(k, i);
  }
  lend_gradients();
}

/// To the servers that can read them in place; the others get copies.
void Client::Impl::lend_gradients() {
  if (options.gradients == nullptr || !usable) return;
  std::set<transport::Connection*> readers;
  for (std::size_t k = 0; k < shard_count(); ++k) {
    if (link(k).capabilities().shared_regions) readers.insert(&link(k));
  }
  for (transport::Connection* reader : readers) {
    if (auto loan = reader->lend(*options.gradients)) loans.push_back(std::move(*loan));
  }
}

base::Status Client::Impl::check_buckets(const std::vector<base::ConstBytes>& buckets) const {
  for (const auto& slices : layout().shards) {
    for (const Slice& s : slices) {
      if (s.bucket < buckets.size() && s.bucket_offset + s.bytes <= buckets[s.bucket].size()) {
        continue;
      }
      return Error(ErrorCode::kInvalidArgument,
                   "bucket " + std::to_string(s.bucket) + " is missing or too small");
    }
  }
  return {};
}

base::Status Client::Impl::check_staged() const {
  for (std::size_t k = 0; k < attempts.size(); ++k) {
    const auto missing = std::find(attempts[k].begin(), attempts[k].end(), std::uint64_t{0});
    if (missing == attempts[k].end()) continue;
    const auto slice = static_cast<std::size_t>(missing - attempts[k].begin());
    return Error(ErrorCode::kInvalidArgument,
                 "bucket " + std::to_string(layout().shards[k][slice].bucket) + " was not staged");
  }
  return {};
}

void Client::Impl::sweep_staged() {
  constexpr std::size_t kFew = 64;
  if (staged.size() < std::max(kFew, 2 * swept)) return;
  std::erase_if(staged, [](const StagedSend& s) { return s.request.done(); });
  swept = staged.size();
}

base::Status Client::Impl::wait_staged(base::TimePoint deadline) {
  base::Status first;
  for (const StagedSend& send : staged) {
    base::Status sent = send.request.wait(deadline);
    if (!sent && first) first = sent;
  }
  staged.clear();
  swept = 0;
  return first;
}

Client::Impl::StagedSend Client::Impl::send_gradient(std::size_t shard, const Head& head,
                                                     base::ConstBytes gradient) const {
  const auto bytes = encode(head);
  const base::ConstBytes whole{bytes.data(), bytes.size()};
  const transport::Tag tag = request_tag(options.model);
  const bool halves =
      options.halve_gradients && layout().shards[shard][head.slice].dtype == base::DType::kF32;
  if (!halves) return {link(shard).send_lent(tag, whole, gradient)};
  const std::size_t size = gradient.size() / 2;
  base::Buffer half = base::is_phantom(gradient) ? base::Buffer::phantom(size) : base::Buffer(size);
  kernels::narrow(base::DType::kBF16, half.view(), gradient);
  group.scheduler().work(base::Work::kCopy, gradient.size());
  const base::ConstBytes body = half.view();  // stays where it is when the buffer is moved
  return {link(shard).send(tag, whole, body), std::move(half)};
}

CommitRecord Client::Impl::record_for(std::size_t shard, const Commit& commit) const {
  CommitRecord record;
  record.step = commit.step;
  record.epoch = commit.epoch;
  record.base_version = versions[shard];
  record.samples = commit.samples;
  record.loss = commit.loss;
  record.gradient_factor = commit.gradient_factor;
  record.clip_norm = commit.clip_norm;
  record.skip = commit.skip;
  record.last_attempt = last_attempt;
  record.attempts = attempts[shard];
  record.present = Presence(commit.present);
  record.hypers = commit.hypers;
  return record;
}

base::Status Client::Impl::ask_all(Kind kind, std::int64_t step, const std::string& what) {
  GEARSHIFT_RETURN_IF_ERROR(usable);
  Exchange exchange(*this, what);
  Head head = exchange.head(kind);
  head.step = step;
  for (std::size_t k = 0; k < shard_count(); ++k) {
    exchange.receive_reply(k);
    exchange.send(k, head);
  }
  return exchange.finish();
}

base::Result<Reply> Client::Impl::ask_parameters(Kind kind, const std::string& what,
                                                 const std::vector<std::vector<std::byte>>& bodies,
                                                 const std::vector<base::Bytes>& parameters) {
  Exchange exchange(*this, what);
  for (std::size_t k = 0; k < shard_count(); ++k) {
    const auto& slices = layout().shards[k];
    for (std::size_t i = 0; i < slices.size(); ++i) {
      exchange.receive(
          k, static_cast<std::uint16_t>(i),
          base::slice(parameters[slices[i].bucket], slices[i].bucket_offset, slices[i].bytes));
    }
    exchange.receive_reply(k);
    exchange.send(k, exchange.head(kind), view(bodies[k]));
  }
  GEARSHIFT_RETURN_IF_ERROR(exchange.finish());
  Reply merged;
  merged.loss = exchange.replies[0].loss;
  for (std::size_t k = 0; k < shard_count(); ++k) {
    const ReplyWire& reply = exchange.replies[k];
    versions[k] = reply.version;
    merged.version = std::max(merged.version, reply.version);
    merged.staleness = std::max(merged.staleness, reply.staleness);
    merged.leave_after = std::max(merged.leave_after, reply.leave_after);
    merged.lead = std::max(merged.lead, static_cast<std::int64_t>(reply.bytes_or_lead));
    merged.skipped = merged.skipped || reply.skipped != 0;
  }
  return merged;
}

Exchange::Exchange(Client::Impl& client, std::string what)
    : replies(client.shard_count()),
      client_(client),
      what_(std::move(what)),
      request_(++client.last_request),
      progress_(client.group.progress(), what_) {}

void Exchange::receive(std::size_t shard, std::uint16_t part, base::Bytes into) {
  const auto tag = reply_tag(client_.options.model, request_, part);
  awaited_.push_back({shard, client_.link(shard).recv(tag, into)});
}

base::Status Exchange::finish() {
  for (const Awaited& a : awaited_) {
    const base::Status received = a.request.wait(client_.group.deadline());
    if (!received) return late(a.shard, received.error());
  }
  awaited_.clear();
  // The answers are here, so all of this has left but for the last acknowledgements.
  for (const auto& request : sends_) {
    if (auto sent = request.wait(client_.group.deadline()); !sent) {
      progress_.give_up();
      return sent.error().within(what_);
    }
  }
  sends_.clear();
  return {};
}

void Exchange::cancel() {
  const base::TimePoint now = client_.group.scheduler().now();
  for (const Awaited& a : awaited_) (void)a.request.wait(now);
  for (const auto& request : sends_) (void)request.wait(now);
}

Error Exchange::late(std::size_t shard, const Error& error) const {
  progress_.give_up();
  Error named = error.within(what_ + ": waiting for shard " + std::to_string(shard) + " on rank " +
                             std::to_string(client_.options.servers[shard].value));
  if (named.code == ErrorCode::kTimeout) {
    // The server may be well and wait for a worker itself: nobody is known to be guilty.
    named.culprit = -1;
    named.message += "; the server may be waiting for another worker's gradient";
  }
  return named;
}

Client::Client(group::Group group, ClientOptions options)
    : impl_(std::make_unique<Impl>(std::move(group), std::move(options))) {}

Client::~Client() { (void)impl_->wait_staged(impl_->group.deadline()); }

base::Status Client::stage(std::uint32_t bucket, base::ConstBytes gradient) {
  GEARSHIFT_RETURN_IF_ERROR(impl_->usable);
  const auto parts = impl_->owners.find(bucket);
  if (parts == impl_->owners.end()) {
    return Error(ErrorCode::kInvalidArgument,
                 "bucket " + std::to_string(bucket) + " is not in the layout");
  }
  for (const auto& [shard, slice] : parts->second) {
    const Slice& s = impl_->layout().shards[shard][slice];
    if (s.bucket_offset + s.bytes > gradient.size()) {
      return Error(ErrorCode::kInvalidArgument, "the gradient of bucket " + std::to_string(bucket) +
                                                    " has " + std::to_string(gradient.size()) +
                                                    " bytes; the layout reaches to " +
                                                    std::to_string(s.bucket_offset + s.bytes));
    }
  }
  impl_->sweep_staged();
  const std::uint64_t attempt = ++impl_->last_attempt;
  for (const auto& [shard, slice] : parts->second) {
    const Slice& s = impl_->layout().shards[shard][slice];
    const Head head{.kind = Kind::kStage, .slice = slice, .attempt = attempt};
    impl_->attempts[shard][slice] = attempt;
    impl_->staged.push_back(
        impl_->send_gradient(shard, head, base::slice(gradient, s.bucket_offset, s.bytes)));
  }
  return {};
}

base::Result<Reply> Client::commit(const Commit& commit,
                                   const std::vector<base::Bytes>& parameters) {
  const std::string what = "push step " + std::to_string(commit.step);
  if (!impl_->usable) return impl_->usable.error().within(what);
  if (impl_->left) {
    return Error(ErrorCode::kInvalidArgument, what + ": this worker has left the server");
  }
  if (!std::isfinite(commit.samples) || commit.samples < 0) {
    return Error(ErrorCode::kInvalidArgument,
                 what + ": samples is " + std::to_string(commit.samples));
  }
  if (auto ok = impl_->check_buckets({parameters.begin(), parameters.end()}); !ok) {
    return ok.error().within(what);
  }
  if (!commit.skip && commit.samples > 0) {
    if (auto ok = impl_->check_staged(); !ok) return ok.error().within(what);
  }
  std::vector<std::vector<std::byte>> bodies;
  for (std::size_t k = 0; k < impl_->shard_count(); ++k) {
    bodies.push_back(encode(impl_->record_for(k, commit)));
  }
  auto reply = impl_->ask_parameters(Kind::kCommit, what, bodies, parameters);
  const base::TimePoint deadline = reply ? impl_->group.deadline() : impl_->group.scheduler().now();
  const base::Status sent = impl_->wait_staged(deadline);
  for (auto& slices : impl_->attempts) std::fill(slices.begin(), slices.end(), 0);
  if (reply && !sent) return sent.error().within(what);
  return reply;
}

base::Result<Reply> Client::pull(const std::vector<base::Bytes>& parameters) {
  GEARSHIFT_RETURN_IF_ERROR(impl_->usable);
  if (auto ok = impl_->check_buckets({parameters.begin(), parameters.end()}); !ok) {
    return ok.error().within("pull");
  }
  const std::vector<std::vector<std::byte>> empty(impl_->shard_count());
  return impl_->ask_parameters(Kind::kPull, "pull", empty, parameters);
}

base::Status Client::leave(std::int64_t step) {
  GEARSHIFT_RETURN_IF_ERROR(impl_->ask_all(Kind::kLeave, step, "leave the server"));
  impl_->left = true;
  return {};
}

base::Status Client::enter(std::int64_t step) {
  GEARSHIFT_RETURN_IF_ERROR(impl_->ask_all(Kind::kEnter, step, "enter the server"));
  impl_->left = false;
  return {};
}

base::Status Client::flush() { return impl_->ask_all(Kind::kFlush, 0, "flush the server"); }

}  // namespace gearshift::ps
