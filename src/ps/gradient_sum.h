#pragma once

#include <vector>

#include "gearshift/base/bytes.h"
#include "gearshift/kernels/reduce.h"
#include "gearshift/ps/layout.h"
#include "ps/protocol.h"

namespace gearshift::ps {

/// The weighted sum of several workers' gradients of one shard. A parameter that a worker has no
/// gradient for counts as zero from that worker, whatever its memory holds; one that nobody has a
/// gradient for is absent from the sum. Not thread-safe.
class GradientSum {
 public:
  /// `slices` must outlive this.
  explicit GradientSum(const std::vector<Slice>& slices);

  /// Adds coefficient · gradient; `gradient[i]` belongs to slice i. The first becomes the sum's
  /// memory, or is read where it is if it is borrowed. Returns how many bytes a pass over memory
  /// was made for.
  std::size_t add(std::vector<base::Buffer> gradient, const Presence& present, double coefficient);
  /// The same for one slice.
  std::size_t add(std::size_t slice, base::Buffer gradient, const Presence& present,
                  double coefficient);

  struct Addend {
    base::Buffer gradient;
    const Presence* present = nullptr;
    double coefficient = 1;
  };
  /// All that a slice's sum consists of, in one pass where everybody has all gradients.
  std::size_t add_all(std::size_t slice, std::vector<Addend> addends);
  /// Lets go of borrowed gradients that the sum consists of.
  void keep();
  void scale(double factor);
  void clear();
  void clear(std::size_t slice);

  bool has(std::size_t slice, std::size_t segment) const { return present_[slice][segment]; }
  base::ConstBytes segment(std::size_t slice, std::size_t segment) const;
  /// Over what is present, without padding.
  kernels::NormPart norm() const;

 private:
  std::size_t start(std::size_t slice, base::Buffer gradient, const Presence& present,
                    double coefficient);
  /// The slice's sum, so far, in memory that may be written.
  base::Bytes own(std::size_t slice);
  base::Buffer memory(std::size_t slice, bool phantom);
  std::size_t extend(std::size_t slice, base::ConstBytes gradient, const Presence& present,
                     double coefficient);

  const std::vector<Slice>& slices_;
  std::vector<base::Buffer> sums_;
  base::Buffer spare_;                      ///< of the sum that was cleared last
  std::vector<bool> begun_;                 ///< slices of which something was added
  std::vector<std::vector<bool>> present_;  ///< [slice][segment]
};

/// The same for one worker's gradient, or for a slice of it.
kernels::NormPart norm_of(const std::vector<Slice>& slices,
                          const std::vector<base::Buffer>& gradient, const Presence& present);
kernels::NormPart norm_of(const Slice& slice, base::ConstBytes gradient, const Presence& present);

}  // namespace gearshift::ps
