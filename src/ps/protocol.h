#pragma once

#include <cstdint>
#include <vector>

#include "gearshift/base/bytes.h"
#include "gearshift/base/result.h"
#include "gearshift/transport/message.h"

namespace gearshift::ps {

// What workers and shards tell each other.
//
// To a shard: service messages on channel kServerService + model. Each has a Head; the body depends
// on its kind. A large body may be overtaken by messages sent later (several streams per peer), so
// nothing relies on their order: a commit names the staged gradients it counts on, and what comes
// in several messages is complete when all of them are there.
//
// To a worker: messages on channel kReplyChannel + model whose sequence is the number of the
// request, into receives that the worker posted before it sent the request. Part i carries slice
// i's parameters (or state), kReplyPart the ReplyWire, kDescriptionPart a description of state.
//
//   kind              body                                     answer
//   kStage            gradient of a slice; one of float32      none
//                     may be bfloat16, which its size tells
//   kCommit           CommitRecord                             ReplyWire, all slices
//   kPull             none                                     ReplyWire, all slices
//   kLeave, kEnter    none                                     ReplyWire
//   kFlush            none                                     ReplyWire
//   kFetchState       none                                     ReplyWire (`bytes`: of what
//   follows),
//                                                              description, state of slices with
//                                                              any
//   kStoreState       description                              ReplyWire, when complete: one answer
//   kStateData        state of one slice                       for both kinds of message
//   kStoreParameters  parameters of a slice; one per slice     ReplyWire, when complete

enum class Kind : std::uint8_t {
  kStage = 1,
  kCommit,
  kPull,
  kLeave,
  kEnter,
  kFlush,
  kFetchState,
  kStoreState,
  kStateData,
  kStoreParameters,
};

inline constexpr std::uint16_t kReplyChannel = 0x2000;
inline constexpr std::uint16_t kReplyPart = 0xFFFF;
inline constexpr std::uint16_t kDescriptionPart = 0xFFFE;
/// Slices of one shard; above are the special parts.
inline constexpr std::size_t kMaxSlices = 65000;

/// Tag of a message to the shards of a model.
constexpr transport::Tag request_tag(std::uint16_t model) {
  return {static_cast<std::uint16_t>(transport::kServerService + model), 0, 0};
}
constexpr transport::Tag reply_tag(std::uint16_t model, std::uint32_t request, std::uint16_t part) {
  return {static_cast<std::uint16_t>(kReplyChannel + model), request, part};
}

struct Head {
  Kind kind = Kind::kPull;
  std::uint32_t request = 0;  ///< names the answer; 0: none expected
  std::uint32_t slice = 0;
  std::uint64_t attempt = 0;  ///< kStage: rises with each gradient that a worker stages
  std::int64_t step = 0;      ///< kLeave, kEnter: steps done so far
};
std::vector<std::byte> encode(const Head& head);
base::Result<Head> decode_head(base::ConstBytes bytes);

/// Which parameters of the model have a gradient. An empty set stands for all of them.
class Presence {
 public:
  Presence() = default;
  explicit Presence(std::vector<bool> bits) : bits_(std::move(bits)) {}
  bool has(std::uint32_t parameter) const { return bits_.empty() || bits_[parameter]; }
  const std::vector<bool>& bits() const { return bits_; }

 private:
  std::vector<bool> bits_;
};

struct CommitRecord {
  std::int64_t step = 0;
  std::int64_t epoch = 0;
  std::int64_t base_version = 0;  ///< version of the parameters that the gradient was made with
  double samples = 0;
  double loss = 0;
  double gradient_factor = 1;
  double clip_norm = 0;  ///< see Commit
  bool skip = false;
  /// Attempts up to this one are over with this commit, used or not.
  std::uint64_t last_attempt = 0;
  /// For each slice of the shard: the attempt that counts. 0: none was staged.
  std::vector<std::uint64_t> attempts;
  Presence present;
  std::vector<double> hypers;

  /// Whether the gradients matter at all.
  bool usable() const { return !skip && samples > 0; }
};
std::vector<std::byte> encode(const CommitRecord& record);
base::Result<CommitRecord> decode_commit(base::ConstBytes bytes);

/// The fixed-size part of every answer, as its bytes travel.
struct ReplyWire {
  std::int64_t version = 0;  ///< updates that the parameters have seen
  std::int64_t staleness = 0;
  std::int64_t leave_after = 0;
  double loss = 0;  ///< latest of all workers, see Reply
  /// kFetchState: of the description that follows. kCommit: see Reply::lead.
  std::uint32_t bytes_or_lead = 0;
  std::uint32_t skipped = 0;
};
static_assert(sizeof(ReplyWire) == 40);

}  // namespace gearshift::ps
