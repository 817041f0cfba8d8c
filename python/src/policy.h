#pragma once

#include <atomic>
#include <optional>
#include <string>

#include "bindings.h"
#include "gearshift/base/error.h"
#include "gearshift/strategy/config.h"

namespace gearshift::python {

/// A switch policy that is a Python callable. When it raises, it says no and keeps the error.
/// Thread-safety: `decide` one call at a time; `error` with the GIL.
class PythonPolicy final : public strategy::Policy {
 public:
  PythonPolicy(std::string name, nb::callable decide);
  ~PythonPolicy() override;
  PythonPolicy(const PythonPolicy&) = delete;
  PythonPolicy& operator=(const PythonPolicy&) = delete;

  std::string name() const override { return name_; }
  strategy::Verdict decide(const strategy::Metrics& metrics) override;
  std::optional<base::Error> error() const;

 private:
  std::string name_;
  nb::object decide_;
  std::optional<base::Error> error_;  ///< written and read with the GIL
};

}  // namespace gearshift::python
