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
  if (!sums_[slice].is_borrowed() && sums_[slice].data() != nullptr) {
    spare_ = std::move(sums_[slice]);
  }
  sums_[slice] = {};
  begun_[slice] = false;
  present_[slice].assign(slices_[slice].segments.size(), false);
}

base::Bytes GradientSum::own(std::size_t slice) {
  base::Buffer& sum = sums_[slice];
  if (!sum.is_borrowed()) return sum.view();
  base::Buffer copy = memory(slice, base::is_phantom(std::as_const(sum).view()));
  if (copy.data() != nullptr) std::memcpy(copy.data(), sum.data(), copy.size());
  sum = std::move(copy);
  return sum.view();
}

base::Buffer GradientSum::memory(std::size_t slice, bool phantom) {
  const std::size_t size = slices_[slice].bytes;
  if (phantom) return base::Buffer::phantom(size);
  if (spare_.data() != nullptr && spare_.size() == size) return std::exchange(spare_, {});
  return base::Buffer(size);
}

std::size_t GradientSum::add(std::vector<base::Buffer> gradient, const Presence& present,
                             double coefficient) {
  std::size_t passed = 0;
  for (std::size_t i = 0; i < slices_.size(); ++i) {
    passed += add(i, std::move(gradient[i]), present, coefficient);
  }
  return passed;
}

std::size_t GradientSum::add(std::size_t slice, base::Buffer gradient, const Presence& present,
                             double coefficient) {
  const std::size_t passed =
      begun_[slice] ? extend(slice, std::as_const(gradient).view(), present, coefficient)
                    : start(slice, std::move(gradient), present, coefficient);
  for (std::size_t s = 0; s < slices_[slice].segments.size(); ++s) {
    if (present.has(slices_[slice].segments[s].parameter)) present_[slice][s] = true;
  }
  return passed;
}

std::size_t GradientSum::add_all(std::size_t slice, std::vector<Addend> addends) {
  const Slice& layout = slices_[slice];
  const bool together = !begun_[slice] && addends.size() > 1 &&
                        std::all_of(addends.begin(), addends.end(),
                                    [&](const Addend& a) { return has_all(layout, *a.present); });
  if (!together) {
    std::size_t passed = 0;
    for (Addend& a : addends) {
      passed += add(slice, std::move(a.gradient), *a.present, a.coefficient);
    }
    return passed;
  }
  std::vector<const std::byte*> sources;
  std::vector<double> factors;
  for (const Addend& a : addends) {
    sources.push_back(a.gradient.data());
    factors.push_back(a.coefficient);
  }
  begun_[slice] = true;
  sums_[slice] = std::move(addends[0].gradient);
  base::Buffer first;  // is read until the sum is there
  if (sums_[slice].is_borrowed()) {
    first = std::exchange(sums_[slice], memory(slice, sources[0] == nullptr));
  }
  std::byte* const sum = sums_[slice].data();
  if (std::find(sources.begin(), sources.end(), nullptr) == sources.end()) {
    kernels::reduce_many(
        layout.dtype, base::ReduceOp::kSum,
        {.sources = sources, .destinations = {&sum, 1}, .bytes = layout.bytes, .factors = factors});
  }
  present_[slice].assign(layout.segments.size(), true);
  return layout.bytes * (addends.size() - 1);
}

std::size_t GradientSum::start(std::size_t slice, base::Buffer gradient, const Presence& present,
                               double coefficient) {
  const Slice& layout = slices_[slice];
  begun_[slice] = true;
  sums_[slice] = std::move(gradient);
  const bool whole = has_all(layout, present);
  if (coefficient == 1 && whole) return 0;
  const bool copied = sums_[slice].is_borrowed();
  const base::Bytes sum = own(slice);
  if (coefficient != 1) kernels::scale(layout.dtype, sum, coefficient);
  for (const Segment& s : layout.segments) {
    if (!present.has(s.parameter)) base::zero(segment_of(layout, s, sum));
  }
  return copied ? layout.bytes : 0;
}

std::size_t GradientSum::extend(std::size_t slice, base::ConstBytes gradient,
                                const Presence& present, double coefficient) {
  const Slice& layout = slices_[slice];
  const base::Bytes sum = own(slice);
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

void GradientSum::keep() {
  for (std::size_t i = 0; i < sums_.size(); ++i) {
    if (begun_[i]) own(i);
  }
}

void GradientSum::scale(double factor) {
  if (factor == 1) return;
  for (std::size_t i = 0; i < sums_.size(); ++i) {
    if (begun_[i]) kernels::scale(slices_[i].dtype, own(i), factor);
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
