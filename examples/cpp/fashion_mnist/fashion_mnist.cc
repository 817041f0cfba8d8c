#include "fashion_mnist/fashion_mnist.h"

#include <zlib.h>

#include <memory>
#include <stdexcept>

namespace {

/// The data of an IDX file of bytes (gzip or plain: zlib reads both), after checking its header.
std::vector<std::uint8_t> read_idx(const std::string& path, int dimensions,
                                   std::size_t item_bytes) {
  gzFile raw = gzopen((path + ".gz").c_str(), "rb");
  if (raw == nullptr) raw = gzopen(path.c_str(), "rb");
  if (raw == nullptr) {
    throw std::runtime_error("cannot open " + path +
                             "[.gz]: install the package dataset-fashion-mnist, or pass --data");
  }
  const std::unique_ptr<gzFile_s, int (*)(gzFile)> file(raw, gzclose);
  const auto number = [&] {
    std::uint8_t b[4] = {};
    if (gzread(file.get(), b, 4) != 4) throw std::runtime_error(path + ": the header is cut off");
    return std::uint32_t{b[0]} << 24U | std::uint32_t{b[1]} << 16U | std::uint32_t{b[2]} << 8U |
           b[3];
  };
  if (number() != (0x0800U | static_cast<std::uint32_t>(dimensions))) {
    throw std::runtime_error(path + ": not an IDX file of bytes");
  }
  std::size_t items = number();
  std::size_t item = 1;
  for (int d = 1; d < dimensions; ++d) item *= number();
  if (item != item_bytes) throw std::runtime_error(path + ": the images are not 28 by 28");
  std::vector<std::uint8_t> data(items * item_bytes);
  const int wanted = static_cast<int>(data.size());
  if (gzread(file.get(), data.data(), static_cast<unsigned>(wanted)) != wanted) {
    throw std::runtime_error(path + ": the data is cut off");
  }
  return data;
}

}  // namespace

Images read_images(const std::string& directory, const std::string& part) {
  Images images;
  images.pixels = read_idx(directory + "/" + part + "-images-idx3-ubyte", 3, kPixels);
  images.labels = read_idx(directory + "/" + part + "-labels-idx1-ubyte", 1, 1);
  if (images.pixels.size() != images.labels.size() * kPixels) {
    throw std::runtime_error(directory + ": images and labels differ in number");
  }
  return images;
}
