#include "state.h"

#include <nanobind/stl/string.h>

#include <memory>

namespace gearshift::python {
namespace {

ByteArray owned_array(base::Buffer buffer) {
  auto kept = std::make_unique<base::Buffer>(std::move(buffer));
  const base::Bytes view = kept->view();
  const nb::capsule owner(kept.release(),
                          [](void* p) noexcept { delete static_cast<base::Buffer*>(p); });
  return byte_array(view, owner);
}

}  // namespace

ByteArray byte_array(base::Bytes memory, nb::handle owner) {
  static std::byte nothing;
  std::byte* data = memory.empty() ? &nothing : memory.data();
  return {data, {memory.size()}, owner};
}

nb::list to_python(std::vector<ps::StateEntry> state) {
  nb::list list;
  for (ps::StateEntry& entry : state) {
    nb::dict tensors, scalars;
    for (auto& [name, buffer] : entry.tensors)
      tensors[name.c_str()] = owned_array(std::move(buffer)).cast();
    for (const auto& [name, value] : entry.scalars) scalars[name.c_str()] = value;
    list.append(nb::make_tuple(tensors, scalars));
  }
  return list;
}

std::vector<ps::StateEntry> state_from_python(nb::handle state) {
  using Array = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig>;
  std::vector<ps::StateEntry> entries;
  for (nb::handle item : state) {
    ps::StateEntry entry;
    for (auto [name, array] : nb::cast<nb::dict>(item[0])) {
      const auto bytes = nb::cast<Array>(array);
      entry.tensors.emplace(
          nb::cast<std::string>(name),
          base::Buffer::copy_of({reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()}));
    }
    for (auto [name, value] : nb::cast<nb::dict>(item[1])) {
      entry.scalars.emplace(nb::cast<std::string>(name), nb::cast<double>(value));
    }
    entries.push_back(std::move(entry));
  }
  return entries;
}

}  // namespace gearshift::python
