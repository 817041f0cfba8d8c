#include "rendezvous/limits.h"

#include <charconv>

namespace gearshift::rendezvous {

base::Status check_key(const std::string& key) {
  if (!key.empty() && key.size() <= kMaxKeyBytes) return {};
  return base::Error(base::ErrorCode::kInvalidArgument,
                     "a store's key has 1 to " + std::to_string(kMaxKeyBytes) + " bytes, not " +
                         std::to_string(key.size()));
}

base::Status check_value(const std::string& key, const std::string& value) {
  if (value.size() <= kMaxValueBytes) return {};
  return base::Error(base::ErrorCode::kInvalidArgument,
                     "value of '" + key + "' has " + std::to_string(value.size()) +
                         " bytes; a store takes at most " + std::to_string(kMaxValueBytes));
}

base::Result<std::int64_t> add_to_counter(const std::string& key, const std::string& text,
                                          std::int64_t amount) {
  std::int64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end) {
    return base::Error(base::ErrorCode::kInvalidArgument,
                       "'" + key + "' holds a value that is not a counter");
  }
  std::int64_t sum = 0;
  if (__builtin_add_overflow(value, amount, &sum)) {
    return base::Error(base::ErrorCode::kInvalidArgument, "counter '" + key + "' would overflow");
  }
  return sum;
}

base::Error key_timeout(const std::string& key) {
  return {base::ErrorCode::kTimeout, "nobody has set '" + key + "' before the deadline"};
}

}  // namespace gearshift::rendezvous
