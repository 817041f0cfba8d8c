#pragma once

#include <string>

#include "gearshift/base/result.h"

namespace gearshift::ps {

/// When a server applies pushes, and when it answers them.
struct Consistency {
  enum class Kind : unsigned char {
    kBsp,       ///< all active workers' gradients of a step are averaged, applied once, answered
    kSsp,       ///< applied at once; an answer waits while its worker leads the slowest by > bound
    kAsp,       ///< applied and answered at once
    kBuffered,  ///< applied (averaged) after `buffer` gradients from anyone; answered at once,
                ///< but held back like SSP when a bound is set
  };
  Kind kind = Kind::kBsp;
  int bound = -1;  ///< most steps that a worker may lead the slowest; -1: none (SSP needs one)
  int buffer = 1;  ///< gradients per update of kBuffered

  static Consistency bsp() { return {Kind::kBsp, -1, 1}; }
  static Consistency ssp(int bound) { return {Kind::kSsp, bound, 1}; }
  static Consistency asp() { return {Kind::kAsp, -1, 1}; }
  static Consistency buffered(int m, int bound = -1) { return {Kind::kBuffered, bound, m}; }

  bool is_synchronous() const { return kind == Kind::kBsp; }
  /// "bsp", "ssp(3)", "asp", "buffered(4)", "buffered(4, bound=8)".
  std::string to_string() const;
  /// The inverse of to_string.
  static base::Result<Consistency> parse(const std::string& text);
  base::Status validate() const;
};

}  // namespace gearshift::ps
