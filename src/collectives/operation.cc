#include "collectives/operation.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "collectives/arguments.h"

namespace gearshift::collectives {
namespace {

constexpr std::size_t kPartsPerSequence = 65536;
/// Collectives and point-to-point messages share a group's channel: the uppermost bit of the
/// sequence number tells them apart. In those of collectives the kind (4 bits) and the detail (8
/// bits) of the meaning follow.
constexpr std::uint32_t kPointToPointBit = 0x8000'0000;
constexpr int kKindShift = 27;
constexpr int kDetailShift = 19;
/// Messages that are half across may take so long after others turned out not to fit: the links are
/// well, and cutting one off would break its link.
constexpr base::Duration kGrace = std::chrono::seconds(1);
constexpr std::uint32_t kCollectiveMask = (std::uint32_t{1} << kDetailShift) - 1;

std::uint32_t space_of(const Meaning& meaning) {
  return (static_cast<std::uint32_t>(meaning.kind) << kKindShift) |
         (std::uint32_t{meaning.detail} << kDetailShift);
}

std::string title_of(std::string_view name, std::string_view algorithm, std::string_view detail) {
  std::string text(name);
  text += " (";
  text += algorithm;
  text += detail;
  text += ')';
  return text;
}

}  // namespace

Meaning Meaning::reduction(Kind kind, base::DType dtype, base::ReduceOp op) {
  constexpr int kOps = 8;
  const int number = static_cast<int>(dtype) * kOps + static_cast<int>(op);
  return {kind, static_cast<std::uint8_t>(number), ", " + reduction_text(dtype, op)};
}

Meaning Meaning::rooted(Kind kind, base::Rank root) {
  return {kind, static_cast<std::uint8_t>(root.value),
          (kind == Kind::kGather ? ", to " : ", from ") + std::to_string(root.value)};
}

Meaning Meaning::of(std::size_t bytes, Algorithm algorithm) && {
  constexpr std::uint64_t kMultiplier = 0x9E37'79B9'7F4A'7C15;
  const std::uint64_t number = (std::uint64_t{bytes} << 4) | static_cast<std::uint64_t>(algorithm);
  check = static_cast<std::uint32_t>((number * kMultiplier) >> 40);
  return std::move(*this);
}

Operation::Operation(group::Group& group, std::string_view name, std::string_view algorithm,
                     const Options& options, const Meaning& meaning)
    : Operation(group, name, algorithm, options,
                {group.next_sequence(), kCollectiveMask, space_of(meaning), meaning.check},
                meaning.text) {}

Operation Operation::point_to_point(group::Group& group, std::string_view name,
                                    const Options& options, std::uint32_t number) {
  return {group, name, "point to point", options, {number, ~kPointToPointBit, kPointToPointBit, 0},
          ""};
}

Operation::Operation(group::Group& group, std::string_view name, std::string_view algorithm,
                     const Options& options, Numbering numbering, std::string_view detail)
    : group_(group),
      scheduler_(group.scheduler()),
      name_(options.label.empty() ? name : std::string_view(options.label)),
      algorithm_(algorithm),
      timeout_(options.timeout.value_or(group.timeout())),
      numbering_(numbering),
      detail_(detail),
      progress_(group.progress(), title_of(name_, algorithm, detail)) {}

void Operation::reserve(std::size_t messages) {
  for (std::size_t taken = kPartsPerSequence; taken < messages; taken += kPartsPerSequence) {
    group_.next_sequence();
  }
}

transport::Tag Operation::tag(std::size_t index) const {
  const auto sequence = numbering_.first + static_cast<std::uint32_t>(index / kPartsPerSequence);
  transport::Tag tag(group_.channel(), (sequence & numbering_.mask) | numbering_.space,
                     static_cast<std::uint16_t>(index % kPartsPerSequence));
  tag.check = numbering_.check;
  return tag;
}

base::Status Operation::await_recv(const transport::Request& request, int peer, Position at) const {
  return await(request, "waiting for rank ", peer, at);
}

base::Status Operation::await_send(const transport::Request& request, int peer, Position at) const {
  return await(request, "sending to rank ", peer, at);
}

base::Status Operation::await(const transport::Request& request, std::string_view what, int peer,
                              Position at) const {
  base::Status status = request.wait(scheduler_.after(timeout_));
  if (status) return status;
  progress_.give_up();
  // A subgroup numbers its members anew; people know the ranks of the whole job.
  const int known_as = link(peer).peer().value;
  std::string detail;
  if (at.steps > 1) {
    detail = ", step " + std::to_string(at.step + 1) + " of " + std::to_string(at.steps);
  }
  std::string where = title_of(name_, algorithm_, detail);
  where += ": ";
  where += what;
  base::Error error = status.error().within(where + std::to_string(known_as));
  // Who closes its own links has nobody else to blame.
  if (error.culprit < 0 && error.code != base::ErrorCode::kClosed) error.culprit = known_as;
  if (error.code == base::ErrorCode::kMismatch) {
    error.message += "; the arrays of all ranks must fit each other in length";
    if (!grace_) grace_ = scheduler_.after(std::min(timeout_, kGrace));
  }
  // It may be that the other one is in something else, as its progress shows.
  if (error.code == base::ErrorCode::kTimeout && !detail_.empty()) {
    error.message += "; this rank is in: " + title_of(name_, algorithm_, detail_);
  }
  return error;
}

void Operation::withdraw(const transport::Request& request) const {
  (void)request.wait(grace_.value_or(scheduler_.now()));
}

}  // namespace gearshift::collectives
