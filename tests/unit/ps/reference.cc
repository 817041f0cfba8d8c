#include "reference.h"

#include <algorithm>
#include <cmath>

namespace gearshift::ps {

void Reference::update(std::size_t p, std::vector<double>& values,
                       const std::vector<double>& gradient, const Hyper& h) {
  const auto num = [&h](const char* name) {
    const auto found = h.find(name);
    return found == h.end() ? 0 : found->second;
  };
  State& s = states_[p];
  const bool first = ++s.step == 1;
  s.a.resize(values.size());
  s.b.resize(values.size());
  s.c.resize(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    double& x = values[i];
    double g = num("maximize") != 0 ? -gradient[i] : gradient[i];
    if (kind_ == "adamw") {
      x *= 1 - num("lr") * num("weight_decay");
    } else {
      g += num("weight_decay") * x;
    }
    if (kind_ == "sgd") {
      if (num("momentum") != 0) {
        s.a[i] = first ? g : num("momentum") * s.a[i] + (1 - num("dampening")) * g;
        g = num("nesterov") != 0 ? g + num("momentum") * s.a[i] : s.a[i];
      }
      x -= num("lr") * g;
    } else if (kind_ == "adagrad") {
      if (first) s.a[i] = num("initial_accumulator_value");
      s.a[i] += g * g;
      x -= num("lr") / (1 + (s.step - 1) * num("lr_decay")) * g / (std::sqrt(s.a[i]) + num("eps"));
    } else {
      const double b1 = num("betas.0");
      const double b2 = num("betas.1");
      s.a[i] = b1 * s.a[i] + (1 - b1) * g;
      s.b[i] = b2 * s.b[i] + (1 - b2) * g * g;
      s.c[i] = std::max(s.c[i], s.b[i]);
      const double second = num("amsgrad") != 0 ? s.c[i] : s.b[i];
      const double root = std::sqrt(second) / std::sqrt(1 - std::pow(b2, s.step)) + num("eps");
      x -= num("lr") / (1 - std::pow(b1, s.step)) * s.a[i] / root;
    }
  }
}

}  // namespace gearshift::ps
