#include "collectives/window/all_reduce.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "collectives/arguments.h"
#include "collectives/window/operation.h"
#include "collectives/window/stages.h"
#include "gearshift/kernels/reduce.h"

namespace gearshift::collectives {
namespace {

using base::Bytes;
using base::Status;
using group::Window;

constexpr std::size_t kLine = kStageLine;
constexpr std::size_t kTinyBytes = 1024;
constexpr std::size_t kFlatBytes = 8 * 1024;
constexpr std::size_t kChunkBytes = kStageChunk;

/// Slice r of n of `bytes` bytes, cut at cache lines.
struct Slice {
  std::size_t begin = 0, size = 0;
};
Slice slice_of(std::size_t bytes, int n, int r) {
  const std::size_t lines = (bytes + kLine - 1) / kLine;
  const auto parts = static_cast<std::size_t>(n), part = static_cast<std::size_t>(r);
  const std::size_t begin = std::min(bytes, part_begin(lines, parts, part) * kLine);
  const std::size_t end = std::min(bytes, part_begin(lines, parts, part + 1) * kLine);
  return {begin, end - begin};
}

/// One all-reduce of this rank.
class AllReduce {
 public:
  AllReduce(WindowOperation& operation, Bytes data, const Reduction& reduction, double factor)
      : operation_(operation),
        window_(operation.window()),
        data_(data),
        dtype_(reduction.dtype),
        op_(reduction.op),
        meant_(reduction.meant),
        factor_(factor),
        pointers_(static_cast<std::size_t>(operation.size())) {}

  Status run() { return data_.size() <= kTinyBytes ? tiny() : choose(); }

 private:
  std::byte* payload(int rank) const { return window_.stage(rank, part_) + kLine; }
  StageHeader header(int rank) const { return header_at(window_.stage(rank, part_)); }
  void announce(Window::Place place) {
    StageHeader mine;
    mine.bytes = data_.size();
    mine.factor = factor_;
    mine.place = place;
    mine.round = window_.coming_round();
    mine.dtype = meant_;
    mine.op = op_;
    std::memcpy(window_.stage(operation_.rank(), part_), &mine, sizeof mine);
  }

  /// Reads what the others announced: do they mean the same operation, and with which factors?
  Status compare() {
    bool plain = true;
    const StageHeader mine = header(operation_.rank());
    for (int r = 0; r < operation_.size(); ++r) {
      const StageHeader said = header(r);
      GEARSHIFT_RETURN_IF_ERROR(same_use(operation_, r, said, mine));
      plain = plain && said.factor == 1;
    }
    if (plain || !base::is_floating(dtype_)) return {};
    for (int r = 0; r < operation_.size(); ++r) factors_.push_back(header(r).factor);
    return {};
  }

  /// Combines `bytes` bytes at the pointers into the destinations; divides when a mean is wanted.
  void combine(std::span<std::byte* const> to, std::size_t bytes) const {
    if (bytes == 0) return;
    const bool mean = op_ == base::ReduceOp::kMean;
    const std::span<const std::byte* const> from(pointers_.data(), pointers_.size());
    if (!mean || base::is_floating(dtype_)) {
      const double scale = mean ? 1.0 / operation_.size() : 1.0;
      kernels::reduce_many(dtype_, op_, {from, to, bytes, factors_, scale});
      return;
    }
    kernels::reduce_many(dtype_, op_, {from, to.first(1), bytes});
    kernels::divide(dtype_, Bytes(to[0], bytes), operation_.size());
    for (std::byte* other : to.subspan(1)) std::memcpy(other, to[0], bytes);
  }

  /// Too small for anything but the shortest way.
  Status tiny() {
    part_ = window_.next_part();
    announce({});
    copy_in(0);
    GEARSHIFT_RETURN_IF_ERROR(operation_.meet());
    GEARSHIFT_RETURN_IF_ERROR(compare());
    return flat();
  }

  Status choose() {
    part_ = window_.next_part();
    const Window::Place place = window_.find(data_);
    announce(place);
    if (place.id == 0) copy_in(0);
    GEARSHIFT_RETURN_IF_ERROR(operation_.meet());
    GEARSHIFT_RETURN_IF_ERROR(compare());
    int attached = 0;
    int together = 0;
    for (int r = 0; r < operation_.size(); ++r) {
      const std::uint64_t id = header(r).place.id;
      attached += id != 0 ? 1 : 0;
      together += id != 0 && id == place.id ? 1 : 0;
    }
    if (together == operation_.size()) return direct(place.id);
    if (attached > 0) {  // they did not know that they would have to
      if (place.id != 0) copy_in(0);
      GEARSHIFT_RETURN_IF_ERROR(operation_.meet());
    }
    return data_.size() <= kFlatBytes ? flat() : staged();
  }

  /// All data are in all stages.
  Status flat() {
    for (int r = 0; r < operation_.size(); ++r) {
      pointers_[static_cast<std::size_t>(r)] = r == operation_.rank() ? data_.data() : payload(r);
    }
    std::byte* const own = data_.data();
    combine({&own, 1}, data_.size());
    return {};
  }

  Status direct(std::uint64_t id) {
    const std::shared_ptr<group::Attachment> attachment = window_.hold(id);
    const Slice mine = slice_of(data_.size(), operation_.size(), operation_.rank());
    for (int r = 0; r < operation_.size(); ++r) {
      std::byte* const theirs =
          attachment ? window_.at(*attachment, r, header(r).place, data_.size()) : nullptr;
      if (theirs == nullptr) return operation_.mismatch(r, "names memory that it does not have");
      pointers_[static_cast<std::size_t>(r)] = theirs + mine.begin;
    }
    combine(pointers_, mine.size);
    return operation_.meet();
  }

  std::size_t chunks() const { return (data_.size() + kChunkBytes - 1) / kChunkBytes; }
  Bytes chunk(std::size_t k) const {
    return data_.subspan(k * kChunkBytes, std::min(kChunkBytes, data_.size() - k * kChunkBytes));
  }
  /// What the others will read of chunk k: all of it but the own slice, or, of little, all of it.
  void copy_in(std::size_t k) const {
    if (data_.size() <= kFlatBytes) {
      copy_shared(payload(operation_.rank()), data_.data(), data_.size());
      return;
    }
    const Slice mine = slice_of(chunk(k).size(), operation_.size(), operation_.rank());
    const std::size_t after = mine.begin + mine.size;
    copy_shared(payload(operation_.rank()), chunk(k).data(), mine.begin);
    copy_shared(payload(operation_.rank()) + after, chunk(k).data() + after,
                chunk(k).size() - after);
  }
  /// Chunk k is in all stages: combines this rank's slice of it, in place and in its stage.
  void combine_slice(std::size_t k) {
    const Slice mine = slice_of(chunk(k).size(), operation_.size(), operation_.rank());
    for (int r = 0; r < operation_.size(); ++r) {
      pointers_[static_cast<std::size_t>(r)] = payload(r) + mine.begin;
    }
    std::byte* const own = chunk(k).data() + mine.begin;
    pointers_[static_cast<std::size_t>(operation_.rank())] = own;
    std::byte* const to[] = {own, payload(operation_.rank()) + mine.begin};
    combine(to, mine.size);
  }
  void copy_out(std::size_t k) const {
    for (int r = 0; r < operation_.size(); ++r) {
      if (r == operation_.rank()) continue;
      const Slice theirs = slice_of(chunk(k).size(), operation_.size(), r);
      std::memcpy(chunk(k).data() + theirs.begin, payload(r) + theirs.begin, theirs.size);
    }
  }

  /// Chunk 0 is in all stages. Between two rounds a rank copies chunk k-1 out, combines its slice
  /// of chunk k and copies chunk k+1 in: each in a part of its own.
  Status staged() {
    for (std::size_t k = 0; k < chunks(); ++k) {
      const int current = part_;
      combine_slice(k);
      if (k + 1 < chunks()) {
        part_ = window_.next_part();
        copy_in(k + 1);
      }
      GEARSHIFT_RETURN_IF_ERROR(operation_.meet());
      const int next = std::exchange(part_, current);
      copy_out(k);
      part_ = next;
    }
    return {};
  }

  WindowOperation& operation_;
  Window& window_;
  const Bytes data_;
  const base::DType dtype_;
  const base::ReduceOp op_;
  const base::DType meant_;
  const double factor_;
  int part_ = 0;
  std::vector<std::byte*> pointers_;
  std::vector<double> factors_;
};

}  // namespace

Status window_all_reduce(group::Group& group, Window& window, Bytes data,
                         const Reduction& reduction, const Options& options) {
  WindowOperation operation(group, window, "all_reduce (window)", options);
  GEARSHIFT_RETURN_IF_ERROR(operation.begin());
  return AllReduce(operation, data, reduction, options.factor).run();
}

Status window_barrier(group::Group& group, Window& window, const Options& options) {
  WindowOperation operation(group, window, "barrier (window)", options);
  GEARSHIFT_RETURN_IF_ERROR(operation.begin());
  // Not written, but ranks that were in an all_reduce meanwhile have taken one.
  static_cast<void>(window.next_part());
  return operation.meet();
}

}  // namespace gearshift::collectives
