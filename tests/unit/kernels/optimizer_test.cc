#include "gearshift/kernels/optimizer.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "testing.h"

namespace gearshift::kernels::testing {
namespace {

using base::DType;

constexpr std::size_t kElements = 133;  // no multiple of a vector
constexpr int kStates = 3;              // as many as any optimizer has

/// One parameter with its optimizer state, in long double, straight from the published formulas.
struct Reference {
  long double param = 0;
  long double state[kStates] = {};
};

/// The reference update of one element for one step (from 1), and the kernel's update of slices.
using ReferenceStep = std::function<void(Reference&, long double grad, int step)>;
using KernelStep = std::function<void(DType, base::Bytes param, base::ConstBytes grad,
                                      base::Bytes* state, int step)>;

// Source: Sutskever et al., "On the importance of initialization and momentum in deep learning"
// (2013), in the form that torch.optim.SGD documents.
ReferenceStep sgd_formula(const SgdHyper& h) {
  return [h](Reference& r, long double g, int step) {
    if (h.maximize) g = -g;
    g += h.weight_decay * r.param;
    if (h.momentum != 0) {
      r.state[0] = step == 1 ? g : h.momentum * r.state[0] + (1.0L - h.dampening) * g;
      g = h.nesterov ? g + h.momentum * r.state[0] : r.state[0];
    }
    r.param -= h.lr * g;
  };
}

// Sources: Kingma & Ba, "Adam" (2015); Loshchilov & Hutter, "Decoupled weight decay regularization"
// (2019); Reddi et al., "On the convergence of Adam and beyond" (2018), whose maximum torch takes
// before the bias correction.
ReferenceStep adam_formula(const AdamHyper& h) {
  return [h](Reference& r, long double g, int step) {
    if (h.maximize) g = -g;
    if (h.decoupled) {
      r.param -= static_cast<long double>(h.lr) * h.weight_decay * r.param;
    } else {
      g += h.weight_decay * r.param;
    }
    r.state[0] = h.beta1 * r.state[0] + (1.0L - h.beta1) * g;
    r.state[1] = h.beta2 * r.state[1] + (1.0L - h.beta2) * g * g;
    r.state[2] = std::max(r.state[2], r.state[1]);
    const long double second = h.amsgrad ? r.state[2] : r.state[1];
    const long double m = r.state[0] / (1 - std::pow(static_cast<long double>(h.beta1), step));
    const long double v = second / (1 - std::pow(static_cast<long double>(h.beta2), step));
    r.param -= h.lr * m / (std::sqrt(v) + h.eps);
  };
}

// Source: Duchi, Hazan & Singer, "Adaptive subgradient methods" (2011).
ReferenceStep adagrad_formula(const AdagradHyper& h) {
  return [h](Reference& r, long double g, int step) {
    if (h.maximize) g = -g;
    g = (g + h.weight_decay * r.param) * h.gradient_factor;
    r.state[0] += g * g;
    const long double lr = h.lr / (1 + (step - 1.0L) * h.lr_decay);
    r.param -= lr * g / (std::sqrt(r.state[0]) + h.eps);
  };
}

KernelStep sgd_kernel(const SgdHyper& h) {
  return [h](DType dtype, base::Bytes param, base::ConstBytes grad, base::Bytes* state, int step) {
    sgd(dtype, param, grad, h.momentum == 0 ? base::Bytes() : state[0], step == 1, h);
  };
}
KernelStep adam_kernel(const AdamHyper& h) {
  return [h](DType dtype, base::Bytes param, base::ConstBytes grad, base::Bytes* state, int step) {
    adam(dtype, param, grad, state[0], state[1], h.amsgrad ? state[2] : base::Bytes(), step, h);
  };
}
KernelStep adagrad_kernel(const AdagradHyper& h) {
  return [h](DType dtype, base::Bytes param, base::ConstBytes grad, base::Bytes* state, int step) {
    adagrad(dtype, param, grad, state[0], step, h);
  };
}

struct Precision {
  DType dtype;
  int steps;
  double tolerance;  // of a parameter of size 1 after so many steps
};
constexpr Precision kPrecisions[] = {{DType::kF64, 50, 2e-14},
                                     {DType::kF32, 50, 1e-5},
                                     {DType::kF16, 5, 0x1p-7},
                                     {DType::kBF16, 5, 0x1p-4}};

void expect_follows(const Precision& precision, const KernelStep& kernel,
                    const ReferenceStep& formula) {
  const auto [dtype, steps, tolerance] = precision;
  std::mt19937_64 random(17);
  Slice param(dtype, kElements, 1), grad(dtype, kElements, 3);
  param.fill_normal(random);
  std::vector<Slice> states(kStates, Slice(dtype, kElements, 5));
  base::Bytes views[kStates] = {states[0].view(), states[1].view(), states[2].view()};
  std::vector<Reference> references(kElements);
  for (std::size_t i = 0; i < kElements; ++i) references[i].param = param.real(i);

  for (int step = 1; step <= steps; ++step) {
    grad.fill_normal(random, 0.3);
    kernel(dtype, param.view(), grad.view(), views, step);
    for (std::size_t i = 0; i < kElements; ++i) {
      formula(references[i], grad.real(i), step);
      const auto expected = static_cast<double>(references[i].param);
      ASSERT_NEAR(param.real(i), expected, tolerance * (1 + std::abs(expected)))
          << base::to_string(dtype) << " step " << step << " element " << i;
    }
  }
}

// A shard that owns a part of a bucket must compute what the owner of the whole would.
void expect_same_bits_when_cut(DType dtype, const KernelStep& kernel) {
  constexpr std::size_t kBorders[] = {0, 1, 14, 77, kElements};
  std::mt19937_64 random(19);
  Slice whole(dtype, kElements), grad(dtype, kElements);
  whole.fill_normal(random);
  Slice cut(whole);
  std::vector<Slice> whole_states(kStates, Slice(dtype, kElements)), cut_states(whole_states);
  for (int step = 1; step <= 3; ++step) {
    grad.fill_normal(random);
    base::Bytes views[kStates];
    for (int s = 0; s < kStates; ++s) views[s] = whole_states[s].view();
    kernel(dtype, whole.view(), grad.view(), views, step);
    for (std::size_t b = 0; b + 1 < std::size(kBorders); ++b) {
      const auto begin = kBorders[b], end = kBorders[b + 1];
      for (int s = 0; s < kStates; ++s) views[s] = cut_states[s].part(begin, end);
      kernel(dtype, cut.part(begin, end), grad.part(begin, end), views, step);
    }
  }
  EXPECT_TRUE(same_bytes(whole, cut)) << base::to_string(dtype);
  for (int s = 0; s < kStates; ++s) EXPECT_TRUE(same_bytes(whole_states[s], cut_states[s]));
}

class Optimizer : public EachTarget {
 protected:
  static void check(const KernelStep& kernel, const ReferenceStep& formula) {
    for (const Precision& precision : kPrecisions) {
      ASSERT_NO_FATAL_FAILURE(expect_follows(precision, kernel, formula));
      expect_same_bits_when_cut(precision.dtype, kernel);
    }
  }
};
GEARSHIFT_ON_EACH_TARGET(Optimizer);

TEST_P(Optimizer, SgdFollowsTheFormulaWithEachOption) {
  SgdHyper with_all{
      .lr = 0.1, .momentum = 0.9, .weight_decay = 0.01, .nesterov = true, .maximize = true};
  for (const SgdHyper& h :
       {SgdHyper{.lr = 0.1}, SgdHyper{.lr = 0.1, .weight_decay = 0.01},
        SgdHyper{.lr = 0.1, .maximize = true}, SgdHyper{.lr = 0.1, .momentum = 0.9},
        SgdHyper{.lr = 0.1, .momentum = 0.9, .dampening = 0.2},
        SgdHyper{.lr = 0.1, .momentum = 0.9, .nesterov = true}, with_all}) {
    check(sgd_kernel(h), sgd_formula(h));
  }
}

TEST_P(Optimizer, AdamFollowsTheFormulaWithEachOption) {
  AdamHyper with_all{
      .lr = 0.01, .weight_decay = 0.1, .decoupled = true, .amsgrad = true, .maximize = true};
  for (const AdamHyper& h :
       {AdamHyper{.lr = 0.01}, AdamHyper{.lr = 0.01, .weight_decay = 0.1},
        AdamHyper{.lr = 0.01, .weight_decay = 0.1, .decoupled = true},
        AdamHyper{.lr = 0.01, .amsgrad = true}, AdamHyper{.lr = 0.01, .maximize = true},
        AdamHyper{.lr = 0.01, .beta1 = 0.3, .beta2 = 0.8, .eps = 1e-4}, with_all}) {
    check(adam_kernel(h), adam_formula(h));
  }
}

TEST_P(Optimizer, AdagradFollowsTheFormulaWithEachOption) {
  for (const AdagradHyper& h :
       {AdagradHyper{.lr = 0.1}, AdagradHyper{.lr = 0.1, .lr_decay = 0.1},
        AdagradHyper{.lr = 0.1, .weight_decay = 0.01}, AdagradHyper{.lr = 0.1, .eps = 1e-3},
        AdagradHyper{.lr = 0.1, .maximize = true},
        AdagradHyper{.lr = 0.1, .weight_decay = 0.01, .gradient_factor = 0.25}}) {
    check(adagrad_kernel(h), adagrad_formula(h));
  }
}

TEST_P(Optimizer, SgdsFirstStepDoesNotReadTheBuffer) {
  std::mt19937_64 random(23);
  Slice param(DType::kF32, kElements), grad(DType::kF32, kElements), buffer(DType::kF32, kElements);
  grad.fill_normal(random);
  for (std::size_t i = 0; i < kElements; ++i) buffer.set_real(i, NAN);
  sgd(DType::kF32, param.view(), grad.view(), buffer.view(), true, {.lr = 1, .momentum = 0.9});
  EXPECT_TRUE(same_bytes(buffer, grad));
}

TEST_P(Optimizer, SkipsPhantoms) {
  std::mt19937_64 random(29);
  Slice data(DType::kF32, 5);
  data.fill_normal(random);
  const Slice before(data);
  const base::Bytes phantom(static_cast<std::byte*>(nullptr), 20), real = data.view(), none;
  sgd(DType::kF32, phantom, real, none, true, {});
  sgd(DType::kF32, real, phantom, none, true, {});
  sgd(DType::kF32, real, real, phantom, false, {.momentum = 0.9});
  adam(DType::kF32, phantom, phantom, phantom, phantom, none, 1, {});
  adam(DType::kF32, real, real, real, real, phantom, 1, {.amsgrad = true});
  adagrad(DType::kF32, real, real, phantom, 1, {});
  EXPECT_TRUE(same_bytes(data, before));
}

}  // namespace
}  // namespace gearshift::kernels::testing
