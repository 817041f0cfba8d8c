#pragma once

#include <torch/torch.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "gearshift/base/bytes.h"
#include "gearshift/base/dtype.h"
#include "gearshift/base/result.h"
#include "gearshift/strategy/plan.h"

/// What a module consists of, and its place in the core's memory. Part of distribute.h, not for
/// users.
namespace gearshift::torch::detail {

using ::torch::Tensor;

inline base::Error invalid(std::string text) {
  return {base::ErrorCode::kInvalidArgument, std::move(text)};
}

inline base::Bytes bytes_of(const Tensor& contiguous) {
  return {static_cast<std::byte*>(contiguous.data_ptr()), contiguous.nbytes()};
}

/// A contiguous tensor on memory of the core, which it keeps alive.
inline Tensor tensor_on(base::Bytes memory, const Tensor& like, std::shared_ptr<const void> owner) {
  const auto options = ::torch::TensorOptions().dtype(like.scalar_type()).device(::torch::kCPU);
  if (memory.empty()) return ::torch::empty(like.sizes(), options);
  return ::torch::from_blob(
      memory.data(), like.sizes(), [owner = std::move(owner)](void*) {}, options);
}

inline std::string describe(const Tensor& t) {
  std::ostringstream text;
  text << t.scalar_type() << t.sizes() << " on " << t.device();
  return text.str();
}

/// A parameter or buffer of the module, and its place in the core's memory, of which it becomes a
/// view; or, when it is staged, to and from which it is copied.
class Mirror {
 public:
  Mirror(std::string name, Tensor tensor, bool staged)
      : name_(std::move(name)), tensor_(std::move(tensor)), staged_(staged) {}

  const std::string& name() const { return name_; }
  const Tensor& tensor() const { return tensor_; }
  bool staged() const { return staged_; }

  void move_to(base::Bytes memory, std::shared_ptr<const void> owner) {
    home_ = tensor_on(memory, tensor_, std::move(owner));
    home_.copy_(tensor_.detach());
    if (!staged_) tensor_.set_data(home_);
  }

  /// Whether the tensor is still what was distributed, wherever its data are.
  base::Status check() const {
    const bool moved = !staged_ && tensor_.device() != home_.device();
    if (!moved && tensor_.sizes() == home_.sizes() &&
        tensor_.scalar_type() == home_.scalar_type()) {
      return {};
    }
    return invalid("'" + name_ + "' became " + describe(tensor_) + " after distribute(), where " +
                   describe(home_) + " was expected: move, cast and reshape the module before");
  }

  /// Makes the core's memory show the tensor; returns whether its data had been replaced.
  base::Result<bool> bring() {
    GEARSHIFT_RETURN_IF_ERROR(check());
    if (staged_) {
      home_.copy_(tensor_.detach());
      return false;
    }
    if (tensor_.data_ptr() == home_.data_ptr()) return false;
    home_.copy_(tensor_.detach());
    tensor_.set_data(home_);
    return true;
  }

  /// Makes the tensor show the core's memory.
  void show() const {
    if (staged_) tensor_.detach().copy_(home_);
  }

 private:
  std::string name_;
  Tensor tensor_;
  Tensor home_;
  bool staged_;
};

/// A parameter that is trained.
struct Trainable {
  Mirror value;
  std::uint32_t group;  ///< of the optimizer
  bool owned;           ///< by a param group of the optimizer
  Tensor gradient{};    ///< on the core's memory

  const Tensor& parameter() const { return value.tensor(); }
  /// Whether its gradient is in the core's memory already.
  bool is_home() const {
    return parameter().grad().defined() && parameter().grad().is_same(gradient);
  }
};

struct Model {
  std::vector<Trainable> trainables;
  std::vector<std::pair<std::string, Tensor>> frozen;
  std::vector<Mirror> buffers;
};

inline std::optional<base::DType> dtype_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ::torch::kDouble:
      return base::DType::kF64;
    case ::torch::kFloat:
      return base::DType::kF32;
    case ::torch::kHalf:
      return base::DType::kF16;
    case ::torch::kBFloat16:
      return base::DType::kBF16;
    default:
      return std::nullopt;
  }
}

inline base::Status check_parameter(const std::string& name, const Tensor& p) {
  if (p.layout() == ::torch::kStrided && dtype_of(p) && !p.is_meta()) return {};
  return base::Error(base::ErrorCode::kUnsupported,
                     "parameter '" + name + "' is " + describe(p) +
                         ": only dense ones of a real floating type can be distributed");
}

/// Two parameters that share memory would come apart, and hooks of two devices would run at once.
inline base::Status check_together(const std::vector<Trainable>& trainables) {
  std::map<const void*, const std::string*> first;
  for (const Trainable& t : trainables) {
    const Tensor& p = t.parameter();
    if (p.device() != trainables[0].parameter().device()) {
      std::ostringstream text;
      text << "parameter '" << t.value.name() << "' is on " << p.device() << " and '"
           << trainables[0].value.name() << "' on " << trainables[0].parameter().device()
           << ": a model on several devices cannot be distributed";
      return base::Error(base::ErrorCode::kUnsupported, text.str());
    }
    if (p.numel() == 0) continue;
    const auto [at, is_new] = first.emplace(p.data_ptr(), &t.value.name());
    if (!is_new) {
      return invalid("parameters '" + *at->second + "' and '" + t.value.name() +
                     "' are two that share memory, and would get memory of their own: tie them by "
                     "registering one module, or one tensor, under both names");
    }
  }
  return {};
}

/// A gradient as it was at a time.
struct Sight {
  explicit Sight(const Tensor& gradient)
      : which(gradient.defined() ? gradient.unsafeGetTensorImpl() : nullptr),
        version(gradient.defined() ? gradient._version() : 0) {}
  friend bool operator==(const Sight& a, const Sight& b) {
    return a.which == b.which && a.version == b.version;
  }

  const void* which;
  std::int64_t version;
};

/// Which param group has each parameter, by its implementation, which set_data() keeps.
using Groups = std::map<const void*, std::uint32_t>;

inline Groups groups_of(const ::torch::optim::Optimizer& optimizer) {
  Groups groups;
  for (std::uint32_t g = 0; g < optimizer.param_groups().size(); ++g) {
    for (const Tensor& p : optimizer.param_groups()[g].params()) {
      groups.emplace(p.unsafeGetTensorImpl(), g);
    }
  }
  return groups;
}

/// Parameters and buffers of a module, tied ones once, and what its optimizer has of them.
inline base::Result<Model> examine(const ::torch::nn::Module& module,
                                   const ::torch::optim::Optimizer& optimizer, bool stage_all) {
  Model model;
  const auto groups = groups_of(optimizer);
  std::set<const void*> seen;
  for (const auto& item : module.named_parameters()) {
    const Tensor& p = item.value();
    if (!p.defined() || !seen.insert(p.unsafeGetTensorImpl()).second) continue;
    GEARSHIFT_RETURN_IF_ERROR(check_parameter(item.key(), p));
    if (!p.requires_grad()) {
      model.frozen.emplace_back(item.key(), p);
      continue;
    }
    const auto group = groups.find(p.unsafeGetTensorImpl());
    const bool owned = group != groups.end();
    model.trainables.push_back(
        {Mirror(item.key(), p, stage_all || !p.is_cpu()), owned ? group->second : 0, owned});
  }
  if (model.trainables.empty()) {
    return invalid("the module has no parameter that requires a gradient");
  }
  for (std::size_t g = 0; g < optimizer.param_groups().size(); ++g) {
    for (const Tensor& p : optimizer.param_groups()[g].params()) {
      if (!p.requires_grad() || seen.count(p.unsafeGetTensorImpl()) > 0) continue;
      return invalid("param group " + std::to_string(g) +
                     " of the optimizer has parameters that are not the module's and would drift "
                     "apart on the workers: register all modules that it trains in one, and "
                     "distribute that");
    }
  }
  GEARSHIFT_RETURN_IF_ERROR(check_together(model.trainables));
  for (const auto& item : module.named_buffers()) {
    const Tensor& b = item.value();
    if (!b.defined() || b.layout() != ::torch::kStrided || b.is_meta()) continue;
    if (!seen.insert(b.unsafeGetTensorImpl()).second) continue;
    model.buffers.emplace_back(item.key(), b, stage_all || !b.is_cpu());
  }
  return model;
}

inline std::vector<strategy::ParameterSpec> specs_of(const Model& model) {
  std::vector<strategy::ParameterSpec> specs;
  for (const Trainable& t : model.trainables) {
    specs.push_back(
        {t.value.name(), t.parameter().sizes().vec(), *dtype_of(t.parameter()), t.group});
  }
  return specs;
}

/// Bytes that a buffer takes among the others.
inline std::size_t place_of(const Mirror& buffer) {
  return (buffer.tensor().nbytes() + 63) / 64 * 64;
}

}  // namespace gearshift::torch::detail
