#pragma once

#include <cstdint>
#include <string>
#include <vector>

/// Images as rows of 784 bytes, labels 0 … 9.
struct Images {
  std::vector<std::uint8_t> pixels;
  std::vector<std::uint8_t> labels;
  std::size_t count() const { return labels.size(); }
};

inline constexpr std::size_t kPixels = 28 * 28;
inline constexpr std::size_t kClasses = 10;

/// Reads `<directory>/<part>-images-idx3-ubyte[.gz]` and the labels beside it; `part` is "train" or
/// "t10k". Throws std::runtime_error that says which file is wrong, and why.
Images read_images(const std::string& directory, const std::string& part);
