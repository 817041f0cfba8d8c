#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "gearshift/base/bytes.h"
#include "gearshift/base/result.h"

namespace gearshift::base {

/// Appends little-endian fixed-size values and length-prefixed strings to a byte vector.
class Writer {
 public:
  Writer() = default;
  /// With room for so many bytes, so that they take one piece of memory.
  explicit Writer(std::size_t bytes) { out_.reserve(bytes); }
  template <typename T>
  requires std::is_arithmetic_v<T> || std::is_enum_v<T> Writer& put(T value) {
    const auto* p = reinterpret_cast<const std::byte*>(&value);
    out_.insert(out_.end(), p, p + sizeof(T));
    return *this;
  }
  Writer& put(std::string_view text) {
    put(static_cast<std::uint32_t>(text.size()));
    const auto* p = reinterpret_cast<const std::byte*>(text.data());
    out_.insert(out_.end(), p, p + text.size());
    return *this;
  }
  Writer& put_bytes(ConstBytes b) {
    put(static_cast<std::uint32_t>(b.size()));
    out_.insert(out_.end(), b.begin(), b.end());
    return *this;
  }
  ConstBytes view() const { return {out_.data(), out_.size()}; }
  std::vector<std::byte> take() { return std::move(out_); }

 private:
  std::vector<std::byte> out_;
};

/// Reads what Writer wrote. After the first short read every getter returns a zero value and
/// `ok()` is false, so that callers check once at the end. Never reads past its view.
class Reader {
 public:
  explicit Reader(ConstBytes in) : in_(in) {}
  template <typename T>
  T get() {
    T value{};
    if (in_.size() < sizeof(T)) {
      ok_ = false;
      in_ = {};
      return value;
    }
    std::memcpy(&value, in_.data(), sizeof(T));
    in_ = in_.subspan(sizeof(T));
    return value;
  }
  std::string get_string() {
    ConstBytes b = get_bytes();
    return {reinterpret_cast<const char*>(b.data()), b.size()};
  }
  ConstBytes get_bytes() {
    auto n = get<std::uint32_t>();
    if (n > in_.size()) {
      ok_ = false;
      in_ = {};
      return {};
    }
    ConstBytes b = in_.first(n);
    in_ = in_.subspan(n);
    return b;
  }
  ConstBytes rest() const { return in_; }
  bool ok() const { return ok_; }
  Status status(std::string_view what) const {
    if (ok_) return {};
    return Error(ErrorCode::kProtocol, std::string(what) + ": message is too short");
  }

 private:
  ConstBytes in_;
  bool ok_ = true;
};

}  // namespace gearshift::base
