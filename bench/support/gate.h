#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace gearshift::bench {

/// What to do in one round: pairs of key and value, such as bytes=4096 operations=100.
class Order {
 public:
  Order() = default;
  /// Words without "=" and options ("--x=y") are left out.
  explicit Order(const std::vector<std::string>& words);

  /// Throws std::invalid_argument for a value that is no whole number from 0 on.
  std::size_t number(const std::string& key, std::size_t fallback) const;

 private:
  std::map<std::string, std::string> values_;
};

/// What came of it on this rank; see bench/README.md.
struct Report {
  std::vector<double> seconds;  ///< of one operation, for each batch
  std::string problem;          ///< empty: the result was checked and is right
  std::string note;             ///< for people, when the order asks for one
  std::size_t operations = 0;   ///< in this round, checks and warm-up included
};

/// Where a measured process waits for its turn, asleep. Not thread-safe.
///
/// Without a driver (GEARSHIFT_BENCH_GATE not set) there is one order, from the program's
/// arguments, and the report of rank 0 goes to standard output.
class Gate {
 public:
  /// Meets the driver: to be called when everything is set up that is not to be measured. Throws
  /// std::runtime_error when the driver is gone.
  Gate(int rank, int argc, char** argv);
  ~Gate();
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;

  /// Waits for the next order; nothing when there is none any more.
  std::optional<Order> next();
  void report(const Report& report);

 private:
  std::optional<std::string> read_line();
  void send(std::string_view line) const;

  int rank_;
  int socket_ = -1;
  std::string unread_;
  std::optional<Order> from_arguments_;
};

/// The value of an option "--name value"; throws std::invalid_argument when it has none.
std::string option(int argc, char** argv, std::string_view name, const std::string& fallback);

/// A number from the environment; throws std::invalid_argument when it is not set.
int number_from_environment(const char* name);

}  // namespace gearshift::bench
