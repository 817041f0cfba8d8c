#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <utility>

#include "gearshift/sim/cluster.h"
#include "gearshift/sim/workload.h"
#include "sim/units.h"

namespace gearshift::sim {

/// What is wrong, and where: `hosts[2].bandwidth: a rate must be positive, this is -1`.
struct Problem {
  std::string section;                 ///< "hosts"; "": the cluster or workload itself
  std::optional<std::size_t> index{};  ///< of the section's entry; absent: the section as a whole
  std::string key;                     ///< "": the entry as a whole
  std::string what;

  std::string to_string() const;
};

/// The first thing that is wrong with a value, if there is one. Thread-safe.
std::optional<Problem> find_problem(const Cluster& cluster);
std::optional<Problem> find_problem(const Workload& workload);
std::optional<Problem> find_problem(const Variability& variability);

/// Collects the first problem of an entry after the other.
class Checks {
 public:
  void at(std::string section, std::optional<std::size_t> index = std::nullopt) {
    section_ = std::move(section);
    index_ = index;
  }
  void number(const char* noun, const char* key, double value, Bound bound,
              const Limits& limits = {}) {
    const std::string what = complaint(noun, value, bound, shown(value), limits);
    if (!what.empty()) fail(key, what);
  }
  void rate(const char* key, double value, Bound bound = Bound::kPositive) {
    number("a rate", key, value, bound, kRateLimits);
  }
  void time(const char* key, double value, Bound bound = Bound::kNotNegative) {
    number("a time", key, value, bound, kTimeLimits);
  }
  void fail(std::string key, std::string what) {
    if (!problem_) problem_ = Problem{section_, index_, std::move(key), std::move(what)};
  }
  bool failed() const { return problem_.has_value(); }
  void merge(std::optional<Problem> other) {
    if (!problem_) problem_ = std::move(other);
  }
  std::optional<Problem> problem() && { return std::move(problem_); }

 private:
  std::string section_;
  std::optional<std::size_t> index_;
  std::optional<Problem> problem_;
};

}  // namespace gearshift::sim
