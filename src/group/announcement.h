#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "gearshift/base/result.h"
#include "gearshift/base/serial.h"

namespace gearshift::group {

struct Endpoint {
  std::string transport;
  std::string address;
};

/// What a rank publishes about itself.
struct Announcement {
  int size = 0;
  std::vector<Endpoint> endpoints;

  std::string encode() const {
    base::Writer out;
    out.put(size).put(static_cast<std::uint32_t>(endpoints.size()));
    for (const Endpoint& e : endpoints) out.put(e.transport).put(e.address);
    const auto bytes = out.view();
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

  static base::Result<Announcement> decode(const std::string& text) {
    base::Reader in(base::bytes_of(std::span<const char>(text)));
    Announcement a;
    a.size = in.get<int>();
    const auto count = in.get<std::uint32_t>();
    for (std::uint32_t i = 0; i < count && in.ok(); ++i) {
      std::string transport = in.get_string();
      a.endpoints.push_back({std::move(transport), in.get_string()});
    }
    GEARSHIFT_RETURN_IF_ERROR(in.status("announcement of a rank"));
    return a;
  }
};

}  // namespace gearshift::group
