#pragma once

#include <cstdint>
#include <string>

#include "gearshift/base/result.h"

namespace gearshift::rendezvous {

inline constexpr std::size_t kMaxKeyBytes = 1 << 10;
inline constexpr std::size_t kMaxValueBytes = 1 << 20;

/// What every store checks and says in the same way. A counter is kept as its decimal text, so
/// that `get` can read it.
base::Status check_key(const std::string& key);
base::Status check_value(const std::string& key, const std::string& value);
/// The counter in `text` plus `amount`; kInvalidArgument when it does not fit.
base::Result<std::int64_t> add_to_counter(const std::string& key, const std::string& text,
                                          std::int64_t amount);
base::Error key_timeout(const std::string& key);

}  // namespace gearshift::rendezvous
