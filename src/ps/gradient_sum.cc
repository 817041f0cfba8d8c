#include "ps/gradient_sum.h"

#include <algorithm>
#include <utility>

#include "ps/layout_check.h"

namespace gearshift::ps {
namespace {

bool has_all(const Slice& slice, const Presence& present) {
  return std::all_of(slice.segments.begin(), slice.segments.end(),
                     [&](const Segment& s) { return present.has(s.parameter); });
}

void add_norm(kernels::NormPart& sum, const Slice& slice, const Segment& segment,
              base::ConstBytes whole) {
  const kernels::NormPart part = kernels::norm_part(slice.dtype, segment_of(slice, segment, whole));
  sum.sum_of_squares += part.sum_of_squares;
  sum.all_finite = sum.all_finite && part.all_finite;
}

}  // namespace

GradientSum::GradientSum(const std::vector<Slice>& slices)
    : slices_(slices), sums_(slices.size()), begun_(slices.size()), present_(slices.size()) {
  clear();
}

void GradientSum::clear() {
  for (std::size_t i = 0; i < slices_.size(); ++i) clear(i);
}

void GradientSum::clear(std::size_t slice) {
  sums_[slice] = {};
  begun_[slice] = false;
  present_[slice].assign(slices_[slice].segments.size(), false);
}

std::size_t GradientSum::add(std::vector<base::Buffer> gradient, const Presence& present,
                             double coefficient) {
  std::size_t combined = 0;
  for (std::size_t i = 0; i < slices_.size(); ++i) {
    combined += add(i, std::move(gradient[i]), present, coefficient);
  }
  return combined;
}

std::size_t GradientSum::add(std::size_t slice, base::Buffer gradient, const Presence& present,
                             double coefficient) {
  std::size_t combined = 0;
  if (begun_[slice]) {
    combined = extend(slice, std::as_const(gradient).view(), present, coefficient);
  } else {
    begun_[slice] = true;
    sums_[slice] = std::move(gradient);
    start(slice, present, coefficient);
  }
  for (std::size_t s = 0; s < slices_[slice].segments.size(); ++s) {
    if (present.has(slices_[slice].segments[s].parameter)) present_[slice][s] = true;
  }
  return combined;
}

void GradientSum::start(std::size_t slice, const Presence& present, double coefficient) {
  const Slice& layout = slices_[slice];
  const base::Bytes sum = sums_[slice].view();
  if (coefficient != 1) kernels::scale(layout.dtype, sum, coefficient);
  for (const Segment& s : layout.segments) {
    if (!present.has(s.parameter)) base::zero(segment_of(layout, s, sum));
  }
}

std::size_t GradientSum::extend(std::size_t slice, base::ConstBytes gradient,
                                const Presence& present, double coefficient) {
  const Slice& layout = slices_[slice];
  const base::Bytes sum = sums_[slice].view();
  if (has_all(layout, present)) {
    kernels::add_scaled(layout.dtype, sum, gradient, coefficient);
    return sum.size();
  }
  std::size_t combined = 0;
  for (const Segment& s : layout.segments) {
    if (!present.has(s.parameter)) continue;
    kernels::add_scaled(layout.dtype, segment_of(layout, s, sum), segment_of(layout, s, gradient),
                        coefficient);
    combined += bytes_of_segment(layout, s);
  }
  return combined;
}

void GradientSum::scale(double factor) {
  if (factor == 1) return;
  for (std::size_t i = 0; i < sums_.size(); ++i) {
    kernels::scale(slices_[i].dtype, sums_[i].view(), factor);
  }
}

base::ConstBytes GradientSum::segment(std::size_t slice, std::size_t segment) const {
  return segment_of(slices_[slice], slices_[slice].segments[segment], sums_[slice].view());
}

kernels::NormPart GradientSum::norm() const {
  kernels::NormPart norm;
  for (std::size_t i = 0; i < sums_.size(); ++i) {
    for (std::size_t s = 0; s < slices_[i].segments.size(); ++s) {
      if (present_[i][s]) add_norm(norm, slices_[i], slices_[i].segments[s], sums_[i].view());
    }
  }
  return norm;
}

kernels::NormPart norm_of(const std::vector<Slice>& slices,
                          const std::vector<base::Buffer>& gradient, const Presence& present) {
  kernels::NormPart norm;
  for (std::size_t i = 0; i < slices.size(); ++i) {
    const kernels::NormPart part = norm_of(slices[i], gradient[i].view(), present);
    norm.sum_of_squares += part.sum_of_squares;
    norm.all_finite = norm.all_finite && part.all_finite;
  }
  return norm;
}

kernels::NormPart norm_of(const Slice& slice, base::ConstBytes gradient, const Presence& present) {
  kernels::NormPart norm;
  for (const Segment& s : slice.segments) {
    if (present.has(s.parameter)) add_norm(norm, slice, s, gradient);
  }
  return norm;
}

}  // namespace gearshift::ps
