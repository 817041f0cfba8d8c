#include "ps/gradient_sum.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "ps/layout_check.h"

namespace gearshift::ps {
namespace {

bool has_all(const Slice& slice, const Presence& present) {
  return std::all_of(slice.segments.begin(), slice.segments.end(),
                     [&](const Segment& s) { return present.has(s.parameter); });
}

void zero(base::Bytes bytes) {
  if (bytes.data() != nullptr) std::memset(bytes.data(), 0, bytes.size());
}

void add_norm(kernels::NormPart& sum, const Slice& slice, const Segment& segment,
              base::ConstBytes whole) {
  const kernels::NormPart part = kernels::norm_part(slice.dtype, segment_of(slice, segment, whole));
  sum.sum_of_squares += part.sum_of_squares;
  sum.all_finite = sum.all_finite && part.all_finite;
}

}  // namespace

GradientSum::GradientSum(const std::vector<Slice>& slices) : slices_(slices) { clear(); }

void GradientSum::clear() {
  sums_.clear();
  present_.resize(slices_.size());
  for (std::size_t i = 0; i < slices_.size(); ++i) {
    present_[i].assign(slices_[i].segments.size(), false);
  }
}

void GradientSum::add(std::vector<base::Buffer> gradient, const Presence& present,
                      double coefficient) {
  const bool first = sums_.empty();
  if (first) sums_ = std::move(gradient);
  for (std::size_t i = 0; i < slices_.size(); ++i) {
    if (first) {
      start(i, present, coefficient);
    } else {
      extend(i, std::as_const(gradient[i]).view(), present, coefficient);
    }
    for (std::size_t s = 0; s < slices_[i].segments.size(); ++s) {
      if (present.has(slices_[i].segments[s].parameter)) present_[i][s] = true;
    }
  }
}

void GradientSum::start(std::size_t slice, const Presence& present, double coefficient) {
  const Slice& layout = slices_[slice];
  const base::Bytes sum = sums_[slice].view();
  if (coefficient != 1) kernels::scale(layout.dtype, sum, coefficient);
  for (const Segment& s : layout.segments) {
    if (!present.has(s.parameter)) zero(segment_of(layout, s, sum));
  }
}

void GradientSum::extend(std::size_t slice, base::ConstBytes gradient, const Presence& present,
                         double coefficient) {
  const Slice& layout = slices_[slice];
  const base::Bytes sum = sums_[slice].view();
  if (has_all(layout, present)) {
    kernels::add_scaled(layout.dtype, sum, gradient, coefficient);
    return;
  }
  for (const Segment& s : layout.segments) {
    if (!present.has(s.parameter)) continue;
    kernels::add_scaled(layout.dtype, segment_of(layout, s, sum), segment_of(layout, s, gradient),
                        coefficient);
  }
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
    for (const Segment& s : slices[i].segments) {
      if (present.has(s.parameter)) add_norm(norm, slices[i], s, gradient[i].view());
    }
  }
  return norm;
}

}  // namespace gearshift::ps
