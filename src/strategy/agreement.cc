#include "strategy/agreement.h"

#include <algorithm>

#include "gearshift/base/serial.h"
#include "gearshift/collectives/collectives.h"

namespace gearshift::strategy {
namespace {

using base::Error;
using base::ErrorCode;

std::vector<std::byte> pack(const std::vector<std::string>& lines) {
  base::Writer writer;
  writer.put(static_cast<std::uint32_t>(lines.size()));
  for (const std::string& line : lines) writer.put(std::string_view(line));
  return writer.take();
}

base::Result<std::vector<std::string>> unpack(base::ConstBytes bytes) {
  base::Reader reader(bytes);
  const auto count = reader.get<std::uint32_t>();
  std::vector<std::string> lines;
  for (std::uint32_t i = 0; i < count && reader.ok(); ++i) lines.push_back(reader.get_string());
  GEARSHIFT_RETURN_IF_ERROR(reader.status("agreement check"));
  return lines;
}

/// "" when equal, else a sentence about the first line that differs.
std::string first_difference(const std::vector<std::string>& reference,
                             const std::vector<std::string>& mine, int rank) {
  const std::size_t common = std::min(reference.size(), mine.size());
  for (std::size_t i = 0; i < common; ++i) {
    if (reference[i] == mine[i]) continue;
    return "ranks disagree: rank 0 has '" + reference[i] + "', rank " + std::to_string(rank) +
           " has '" + mine[i] + "'";
  }
  if (reference.size() == mine.size()) return "";
  const bool more = mine.size() > reference.size();
  return "ranks disagree: rank " + std::to_string(more ? rank : 0) + " also has '" +
         (more ? mine : reference)[common] + "', rank " + std::to_string(more ? 0 : rank) +
         " has not";
}

}  // namespace

base::Result<std::vector<std::uint64_t>> gather_u64(group::Group& group, std::uint64_t mine,
                                                    const std::string& label,
                                                    base::Duration timeout) {
  std::vector<std::uint64_t> all(static_cast<std::size_t>(group.size()), 0);
  all[static_cast<std::size_t>(group.rank().value)] = mine;
  collectives::Options options;
  options.label = label;
  options.timeout = timeout;
  GEARSHIFT_RETURN_IF_ERROR(collectives::all_gather(group, std::as_writable_bytes(std::span(all)),
                                                    base::DType::kI64, options));
  return all;
}

base::Result<std::vector<std::byte>> broadcast_blob(group::Group& group, base::ConstBytes mine,
                                                    base::Rank root, const std::string& label) {
  collectives::Options options;
  options.label = label;
  std::uint64_t size = mine.size();
  GEARSHIFT_RETURN_IF_ERROR(
      collectives::broadcast(group, base::writable_bytes_of(size), root, options));
  std::vector<std::byte> blob(size);
  if (group.rank() == root) blob.assign(mine.begin(), mine.end());
  GEARSHIFT_RETURN_IF_ERROR(collectives::broadcast(group, blob, root, options));
  return blob;
}

base::Status check_agreement(group::Group& group, const std::vector<std::string>& lines) {
  const std::vector<std::byte> mine = pack(lines);
  GEARSHIFT_ASSIGN_OR_RETURN(const std::vector<std::byte> reference,
                             broadcast_blob(group, mine, base::Rank(0), "agreement check"));
  GEARSHIFT_ASSIGN_OR_RETURN(const std::vector<std::string> wanted, unpack(reference));
  const std::string difference = first_difference(wanted, lines, group.rank().value);
  GEARSHIFT_ASSIGN_OR_RETURN(
      const std::vector<std::uint64_t> differs,
      gather_u64(group, difference.empty() ? 0 : 1, "agreement check", group.timeout()));
  const auto first = std::find(differs.begin(), differs.end(), 1U);
  if (first == differs.end()) return {};
  const base::Rank culprit(static_cast<int>(first - differs.begin()));
  GEARSHIFT_ASSIGN_OR_RETURN(
      const std::vector<std::byte> text,
      broadcast_blob(group, base::bytes_of(std::span(difference.data(), difference.size())),
                     culprit, "agreement check"));
  return Error(ErrorCode::kMismatch,
               std::string(reinterpret_cast<const char*>(text.data()), text.size()), culprit.value);
}

}  // namespace gearshift::strategy
