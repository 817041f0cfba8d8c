#pragma once

#include <cstddef>
#include <string_view>

namespace gearshift::transport {

/// The first `longest` bytes of a text, or a few less: no character of UTF-8 is cut in two, since
/// half of one cannot be shown in Python.
inline std::string_view cut_text(std::string_view text, std::size_t longest) {
  if (text.size() <= longest) return text;
  while (longest > 0 && (static_cast<unsigned char>(text[longest]) & 0xC0U) == 0x80U) --longest;
  return text.substr(0, longest);
}

}  // namespace gearshift::transport
