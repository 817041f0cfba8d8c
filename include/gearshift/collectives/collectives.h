#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gearshift/base/bytes.h"
#include "gearshift/base/dtype.h"
#include "gearshift/base/ids.h"
#include "gearshift/base/result.h"
#include "gearshift/group/group.h"
#include "gearshift/transport/shared_region.h"

namespace gearshift::collectives {

/// Algorithms of all-reduce. `kAuto` takes the window where all ranks run on one host, and asks the
/// cost model elsewhere (see cost.h). `kWindow` reduces through shared memory, without messages:
/// kUnsupported where ranks cannot map each other's memory.
enum class Algorithm : unsigned char {
  kAuto,
  kRing,
  kRecursiveDoubling,
  kRabenseifner,
  kTree,
  kHierarchical,
  kWindow
};
std::string_view to_string(Algorithm algorithm);
std::optional<Algorithm> algorithm_from_string(std::string_view name);
/// All names that `algorithm_from_string` knows, "auto" first.
std::vector<std::string_view> algorithm_names();

struct Options {
  Algorithm algorithm = Algorithm::kAuto;
  /// Shown in progress reports and errors, e.g. "all_reduce bucket 3".
  std::string label{};
  /// The group's timeout when absent. Counted from the last progress of the operation.
  std::optional<base::Duration> timeout{};
  /// all_reduce of float types: this rank's data is multiplied by it before it is combined, in the
  /// same pass over memory where that is possible. Ranks may give different factors.
  double factor = 1;
  /// Another thread of this process computes meanwhile: sleep when it takes longer than a moment
  /// until the other ranks are here, instead of looking again and again. Of effect in windows.
  bool background = false;
};

/// All functions: every rank of the group calls the same function with equal sizes and the same
/// algorithm, in the same order. Arrays are flat; an element count is `data.size() /
/// size_of(dtype)` and must be whole. Views may be unaligned, empty and phantom. Blocking. On error
/// the contents of the destination are unspecified, no buffer is touched afterwards, and the group
/// should be aborted: other ranks may be waiting for this one, or have succeeded. The result is
/// bit-identical on all ranks, for every algorithm. An empty array sends nothing, and still counts
/// as an operation on every rank. Errors: kInvalidArgument (what this rank passes), kTimeout /
/// kPeerLost / kAborted / kClosed, and kMismatch.
///
/// Ranks that differ in what they call never take each other's data (unless they name different
/// algorithms), but not all of them are told:
/// - Through a window (all_reduce, reduce_scatter, all_gather): all get kMismatch where functions,
///   lengths, dtypes or operations differ, and may go on. Where some are in a barrier, those who
///   are not do, and those in the barrier succeed. A broadcast passes it from 1 MiB on.
/// - Over messages, whoever is sent another length than it expects gets kMismatch; the links go on.
///   Whoever waits for what nobody sends (for another dtype, operation, root or function) gets
///   kTimeout. Whoever waits for nobody succeeds: with an empty array, or as the root of a
///   broadcast by its own account. all_gather compares lengths, not dtypes.
///
/// Accuracy: floats are combined in their own type, one rounding per combination (float16 and
/// bfloat16 in float32, then rounded), N-1 combinations per element: a sum is within
/// (N-1)·u·Σ|x| of the exact one, u half a unit in the last place. A mean is the sum, divided once
/// at the end: a float16 sum beyond 65504 is infinite, and so is its mean. (Through a window,
/// float16 and bfloat16 are combined in float32 and rounded once, after the division.) Integers
/// wrap around in sum and product; means of int8, uint8 and int32 are computed, and travel, as
/// int64 and are exact.
///
/// The cost of each algorithm stands in the header beside it in src/collectives/<operation>/.

/// data = op over all ranks of data, in place.
base::Status all_reduce(group::Group& group, base::Bytes data, base::DType dtype, base::ReduceOp op,
                        const Options& options = {});

/// Rank r keeps part r of the reduction: `data` has n elements; part r is elements
/// [part_begin(n, size, r), part_begin(n, size, r + 1)). `out` has that part's size.
/// `data` is used as scratch and its contents are unspecified afterwards.
base::Status reduce_scatter(group::Group& group, base::Bytes data, base::Bytes out,
                            base::DType dtype, base::ReduceOp op, const Options& options = {});

/// Concatenates the ranks' parts into `data` on every rank; this rank's part (see reduce_scatter)
/// is in place before the call.
base::Status all_gather(group::Group& group, base::Bytes data, base::DType dtype,
                        const Options& options = {});

/// Parts of unequal sizes: `sizes[r]` bytes from rank r, concatenated. Own part in place.
base::Status all_gather_v(group::Group& group, base::Bytes data,
                          const std::vector<std::size_t>& sizes, const Options& options = {});

/// `data` of `root` to all. The root may return before others have it.
base::Status broadcast(group::Group& group, base::Bytes data, base::Rank root,
                       const Options& options = {});

/// `in` and `out` have size() equal blocks; block j of rank i becomes block i of rank j.
base::Status all_to_all(group::Group& group, base::ConstBytes in, base::Bytes out,
                        const Options& options = {});

/// Blocks of unequal sizes: `in` has in_sizes[t] bytes for rank t, `out` takes out_sizes[r] bytes
/// from rank r, both concatenated in the order of ranks. What r sends t must be what t takes from
/// r: kMismatch where it is not. A block has less than 256 GiB.
base::Status all_to_all_v(group::Group& group, base::ConstBytes in,
                          const std::vector<std::size_t>& in_sizes, base::Bytes out,
                          const std::vector<std::size_t>& out_sizes, const Options& options = {});

/// The ranks' arrays of equal size, concatenated in `out` on `root`, which is ignored elsewhere.
base::Status gather(group::Group& group, base::ConstBytes in, base::Bytes out, base::Rank root,
                    const Options& options = {});

/// Part r of `in` on `root`, which is ignored elsewhere, to rank r's `out`; parts have equal sizes.
base::Status scatter(group::Group& group, base::ConstBytes in, base::Bytes out, base::Rank root,
                     const Options& options = {});

base::Status barrier(group::Group& group, const Options& options = {});

/// Point to point, in order per pair. Sizes must agree: otherwise `recv` fails (kMismatch), and the
/// `send` may succeed. `send` may wait until the peer receives. Not collective: these count
/// messages per pair, and may run beside a collective of the same group, one `send` and one `recv`
/// per peer at a time.
base::Status send(group::Group& group, base::ConstBytes data, base::Rank to,
                  const Options& options = {});
base::Status recv(group::Group& group, base::Bytes data, base::Rank from,
                  const Options& options = {});

/// Memory for data that is reduced often: where the ranks of the group share a host, it is mapped
/// by all of them, and `all_reduce` works in it without a copy; elsewhere it is memory of this
/// process, on huge pages where the kernel grants them.
class SharedBuffer {
 public:
  virtual ~SharedBuffer() = default;
  virtual base::Bytes view() = 0;
  /// What the view lies in, and lives as long as this; null for memory of this process alone.
  virtual const transport::SharedRegion* region() const = 0;
};
/// Collective: `bytes` of new zeroed memory on each rank. Any task may drop it, between collectives
/// of the group, which must not have ended. Errors: kIo when there is no memory, and as above.
base::Result<std::unique_ptr<SharedBuffer>> allocate(group::Group& group, std::size_t bytes);

/// First element of part r when n elements are cut into `parts` parts: the first n % parts parts
/// have one element more.
constexpr std::size_t part_begin(std::size_t n, std::size_t parts, std::size_t r) {
  return r * (n / parts) + (r < n % parts ? r : n % parts);
}

}  // namespace gearshift::collectives
