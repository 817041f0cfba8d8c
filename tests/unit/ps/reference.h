#pragma once

#include <map>
#include <string>
#include <vector>

namespace gearshift::ps {

/// torch.optim written down element by element in float64, one parameter at a time.
class Reference {
 public:
  using Hyper = std::map<std::string, double>;
  explicit Reference(std::string kind) : kind_(std::move(kind)) {}

  /// One step of parameter `p` (state is kept by its number).
  void update(std::size_t p, std::vector<double>& values, const std::vector<double>& gradient,
              const Hyper& hyper);

 private:
  struct State {
    int step = 0;
    std::vector<double> a, b, c;
  };
  std::string kind_;
  std::map<std::size_t, State> states_;
};

}  // namespace gearshift::ps
