#include "transport/shm/lending.h"

#include <functional>
#include <string>
#include <utility>

namespace gearshift::transport::shm {
namespace {

base::Error lending_error(const std::string& what) {
  return {base::ErrorCode::kProtocol, "lent memory: " + what};
}

bool contains(base::ConstBytes memory, base::ConstBytes part) {
  const std::less_equal<> before;
  return before(memory.data(), part.data()) &&
         before(part.data() + part.size(), memory.data() + memory.size());
}

}  // namespace

std::uint64_t LentRegions::add(base::ConstBytes memory) {
  regions_.emplace(++last_, Entry{memory});
  return last_;
}

void LentRegions::confirm(std::uint64_t id) {
  if (const auto found = regions_.find(id); found != regions_.end()) found->second.mapped = true;
}

std::optional<LentBody> LentRegions::find(base::ConstBytes body) const {
  if (body.size() < least_bytes_) return std::nullopt;
  for (const auto& [id, entry] : regions_) {
    if (!contains(entry.memory, body)) continue;
    if (!entry.mapped) return std::nullopt;
    return LentBody{id, static_cast<std::uint64_t>(body.data() - entry.memory.data()), 0};
  }
  return std::nullopt;
}

base::Result<bool> BorrowedRegions::add(std::uint64_t id, std::shared_ptr<SharedRegion> region) {
  if (forgotten_early_.erase(id) > 0) return false;
  if (regions_.size() >= kMost || !regions_.emplace(id, std::move(region)).second) {
    return lending_error("region " + std::to_string(id) + " was lent twice, or too many were");
  }
  return true;
}

void BorrowedRegions::forget(std::uint64_t id) {
  if (regions_.erase(id) == 0 && forgotten_early_.size() < kMost) forgotten_early_.insert(id);
}

base::Result<BorrowedRegions::Found> BorrowedRegions::find(const LentBody& place,
                                                           std::uint64_t bytes) const {
  const auto found = regions_.find(place.region);
  if (found == regions_.end()) {
    return lending_error("region " + std::to_string(place.region) + " is not known");
  }
  const base::ConstBytes memory = found->second->view();
  if (place.offset > memory.size() || bytes > memory.size() - place.offset) {
    return lending_error(std::to_string(bytes) + " bytes at " + std::to_string(place.offset) +
                         " of a region of " + std::to_string(memory.size()));
  }
  return Found{found->second, base::slice(memory, place.offset, bytes)};
}

}  // namespace gearshift::transport::shm
