#pragma once

#include <cassert>
#include <optional>
#include <utility>
#include <variant>

#include "gearshift/base/error.h"

namespace gearshift::base {

/// A value of type T or an Error. Check with `if (!r)` before `*r`.
/// Thread-safety: as its contents.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}      // NOLINT(implicit)
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT(implicit)

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  T& value() & {
    assert(ok());
    return std::get<0>(state_);
  }
  const T& value() const& {
    assert(ok());
    return std::get<0>(state_);
  }
  T&& value() && {
    assert(ok());
    return std::get<0>(std::move(state_));
  }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

  const Error& error() const {
    assert(!ok());
    return std::get<1>(state_);
  }

 private:
  std::variant<T, Error> state_;
};

/// Success, or an Error: the Result of an operation without a value.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Error error) : error_(std::move(error)) {}  // NOLINT(implicit)

  static Status success() { return {}; }
  bool ok() const { return !error_.has_value(); }
  explicit operator bool() const { return ok(); }
  const Error& error() const {
    assert(!ok());
    return *error_;
  }

 private:
  std::optional<Error> error_;
};

}  // namespace gearshift::base

/// Returns from the enclosing function with the error when `expr` (Status or Result) failed.
#define GEARSHIFT_RETURN_IF_ERROR(expr)                           \
  do {                                                            \
    auto&& gearshift_status_ = (expr);                            \
    if (!gearshift_status_.ok()) {                                \
      return ::gearshift::base::Error(gearshift_status_.error()); \
    }                                                             \
  } while (false)

#define GEARSHIFT_CONCAT_INNER_(a, b) a##b
#define GEARSHIFT_CONCAT_(a, b) GEARSHIFT_CONCAT_INNER_(a, b)

/// `GEARSHIFT_ASSIGN_OR_RETURN(auto x, f());` binds the value of a Result, or returns its error.
#define GEARSHIFT_ASSIGN_OR_RETURN(decl, expr) \
  GEARSHIFT_ASSIGN_OR_RETURN_IMPL_(GEARSHIFT_CONCAT_(gearshift_result_, __LINE__), decl, expr)
#define GEARSHIFT_ASSIGN_OR_RETURN_IMPL_(tmp, decl, expr) \
  auto tmp = (expr);                                      \
  if (!tmp.ok()) {                                        \
    return ::gearshift::base::Error(tmp.error());         \
  }                                                       \
  decl = std::move(tmp).value()
