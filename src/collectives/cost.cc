#include "gearshift/collectives/cost.h"

#include <array>
#include <bit>
#include <cstdio>

#include "collectives/segments.h"

namespace gearshift::collectives {
namespace {

constexpr std::array kCandidates = {Algorithm::kRecursiveDoubling, Algorithm::kRing};

/// 2(N-1) messages of B/N; half of them are combined.
double predict_ring(double bytes, int ranks, const LinkModel& link) {
  const double steps = ranks - 1;
  const double part = bytes / ranks;
  return steps *
         (2 * (link.latency + part * link.seconds_per_byte) + part * link.reduce_seconds_per_byte);
}

/// log2 P messages of B, all of them combined; folding adds two messages, one of them combined.
double predict_recursive_doubling(double bytes, int ranks, const LinkModel& link) {
  const auto n = static_cast<unsigned>(ranks);
  const double exchanges = std::bit_width(n) - 1;
  const double folds = std::has_single_bit(n) ? 0 : 1;
  return (exchanges + 2 * folds) * (link.latency + bytes * link.seconds_per_byte) +
         (exchanges + folds) * bytes * link.reduce_seconds_per_byte;
}

std::string microseconds(double seconds) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f us", seconds * 1e6);
  return text;
}

}  // namespace

std::string_view to_string(Algorithm algorithm) {
  switch (algorithm) {
    case Algorithm::kAuto:
      return "auto";
    case Algorithm::kRing:
      return "ring";
    case Algorithm::kRecursiveDoubling:
      return "recursive_doubling";
    case Algorithm::kWindow:
      return "window";
  }
  return "unknown";
}

std::optional<Algorithm> algorithm_from_string(std::string_view name) {
  if (name == "auto") return Algorithm::kAuto;
  if (name == "ring") return Algorithm::kRing;
  if (name == "recursive_doubling") return Algorithm::kRecursiveDoubling;
  if (name == "window") return Algorithm::kWindow;
  return std::nullopt;
}

double predict(Algorithm algorithm, std::size_t bytes, int ranks, const LinkModel& link) {
  if (ranks < 2 || bytes == 0) return 0;
  const auto b = static_cast<double>(bytes);
  switch (algorithm) {
    case Algorithm::kRing:
      return predict_ring(b, ranks, link);
    case Algorithm::kRecursiveDoubling:
      return predict_recursive_doubling(b, ranks, link);
    case Algorithm::kWindow:  // not a matter of messages
    case Algorithm::kAuto:
      break;
  }
  return predict(fastest(bytes, ranks, link), bytes, ranks, link);
}

Algorithm fastest(std::size_t bytes, int ranks, const LinkModel& link) {
  Algorithm best = kCandidates[0];
  for (Algorithm candidate : kCandidates) {
    if (predict(candidate, bytes, ranks, link) < predict(best, bytes, ranks, link)) {
      best = candidate;
    }
  }
  return best;
}

Choice choose(std::size_t bytes, int ranks, const LinkModel& link) {
  Choice choice;
  choice.algorithm = fastest(bytes, ranks, link);
  choice.predicted_seconds = predict(choice.algorithm, bytes, ranks, link);
  choice.reason = std::to_string(bytes) + " bytes over " + std::to_string(ranks) + " ranks: ";
  for (Algorithm candidate : kCandidates) {
    if (candidate != kCandidates[0]) choice.reason += ", ";
    choice.reason += std::string(to_string(candidate)) + " " +
                     microseconds(predict(candidate, bytes, ranks, link));
  }
  choice.reason += "; chosen: " + std::string(to_string(choice.algorithm));
  return choice;
}

bool broadcast_prefers_chain(std::size_t bytes, int ranks, const LinkModel& link) {
  if (ranks < 3) return true;
  const auto segments = static_cast<double>(segments_for(bytes));
  const double transfer = static_cast<double>(bytes) * link.seconds_per_byte;
  const double depth = std::bit_width(static_cast<unsigned>(ranks - 1));
  const double chain = (segments + ranks - 2) * (link.latency + transfer / segments);
  return chain < depth * (link.latency + transfer);
}

}  // namespace gearshift::collectives
