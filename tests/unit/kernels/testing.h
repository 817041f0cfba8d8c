#pragma once

#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "gearshift/base/bytes.h"
#include "gearshift/base/dtype.h"
#include "gearshift/kernels/half.h"

namespace gearshift::kernels::testing {

inline constexpr base::DType kFloats[] = {base::DType::kF64, base::DType::kF32, base::DType::kF16,
                                          base::DType::kBF16};
inline constexpr base::DType kIntegers[] = {base::DType::kI8, base::DType::kU8, base::DType::kI32,
                                            base::DType::kI64};
inline constexpr base::DType kHalves[] = {base::DType::kF16, base::DType::kBF16};
inline constexpr base::ReduceOp kOps[] = {base::ReduceOp::kSum, base::ReduceOp::kMean,
                                          base::ReduceOp::kMin, base::ReduceOp::kMax,
                                          base::ReduceOp::kProduct};
inline constexpr std::size_t kCounts[] = {0, 1, 7, 63, 64, 65, 1000, 100003};

/// Runs each test on every instruction set that the kernels are compiled for and this processor
/// has.
class EachTarget : public ::testing::TestWithParam<std::int64_t> {
 protected:
  static void use(std::int64_t target) {
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
  void SetUp() override {
    if ((hwy::SupportedTargets() & GetParam()) == 0) GTEST_SKIP() << "not on this processor";
    use(GetParam());
  }
  void TearDown() override { use(0); }
};

inline const std::vector<std::int64_t>& targets() {
  static const std::vector<std::int64_t> kAll = [] {
    std::vector<std::int64_t> list{HWY_STATIC_TARGET};
    for (const std::int64_t target : {HWY_AVX2, HWY_AVX3}) {
      if (target != HWY_STATIC_TARGET) list.push_back(target);
    }
    return list;
  }();
  return kAll;
}

inline std::string target_name(const ::testing::TestParamInfo<std::int64_t>& info) {
  return hwy::TargetName(info.param);
}

#define GEARSHIFT_ON_EACH_TARGET(suite) \
  INSTANTIATE_TEST_SUITE_P(Targets, suite, ::testing::ValuesIn(targets()), target_name)

/// Elements at a chosen misalignment, in memory that ends with the last of them, so that
/// AddressSanitizer sees every access beyond.
class Slice {
 public:
  Slice(base::DType dtype, std::size_t count, std::size_t misalignment = 0)
      : dtype_(dtype), count_(count), offset_(misalignment) {
    bytes_.resize(offset_ + count * base::size_of(dtype));
    bytes_.shrink_to_fit();
  }

  base::DType dtype() const { return dtype_; }
  std::size_t count() const { return count_; }
  base::Bytes view() { return base::Bytes(bytes_).subspan(offset_); }
  base::ConstBytes view() const { return base::ConstBytes(bytes_).subspan(offset_); }
  /// The elements [begin, end).
  base::Bytes part(std::size_t begin, std::size_t end) {
    const std::size_t size = base::size_of(dtype_);
    return view().subspan(begin * size, (end - begin) * size);
  }

  template <typename T>
  T get(std::size_t i) const {
    T value;
    std::memcpy(&value, view().data() + i * sizeof(T), sizeof(T));
    return value;
  }
  template <typename T>
  void set(std::size_t i, T value) {
    std::memcpy(view().data() + i * sizeof(T), &value, sizeof(T));
  }

  /// A float element as a double, exactly; and rounded from one.
  double real(std::size_t i) const {
    switch (dtype_) {
      case base::DType::kF64:
        return get<double>(i);
      case base::DType::kF32:
        return get<float>(i);
      case base::DType::kF16:
        return f16_to_float(get<std::uint16_t>(i));
      default:
        return bf16_to_float(get<std::uint16_t>(i));
    }
  }
  void set_real(std::size_t i, double value) {
    switch (dtype_) {
      case base::DType::kF64:
        return set(i, value);
      case base::DType::kF32:
        return set(i, static_cast<float>(value));
      case base::DType::kF16:
        return set(i, f16_from_float(static_cast<float>(value)));
      default:
        return set(i, bf16_from_float(static_cast<float>(value)));
    }
  }
  void fill_normal(std::mt19937_64& random, double deviation = 1) {
    std::normal_distribution<double> normal(0, deviation);
    for (std::size_t i = 0; i < count_; ++i) set_real(i, normal(random));
  }
  void fill_bits(std::mt19937_64& random) {
    for (std::byte& byte : view()) byte = static_cast<std::byte>(random());
  }

 private:
  base::DType dtype_;
  std::size_t count_, offset_;
  std::vector<std::byte> bytes_;
};

inline bool same_bytes(const Slice& a, const Slice& b) {
  return a.view().size() == b.view().size() &&
         (a.count() == 0 || std::memcmp(a.view().data(), b.view().data(), a.view().size()) == 0);
}

}  // namespace gearshift::kernels::testing
