#include <algorithm>
#include <array>
#include <cctype>

#include "gearshift/strategy/config.h"
#include "strategy/phases.h"
#include "strategy/text_options.h"

namespace gearshift::strategy {
namespace {

using base::Error;
using base::ErrorCode;

/// "ps:ssp(3, shards=2)" -> "ps", "ssp", "3, shards=2".
struct Text {
  std::string name;
  std::optional<std::string> variant;
  std::string inside;
};

bool is_word(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](unsigned char c) { return std::isalnum(c) != 0 || c == '_'; });
}

/// Lower case, and "_" for a "-" between letters.
std::string normalised(std::string_view text) {
  std::string result(stripped(text));
  const auto is_letter = [&](std::size_t i) {
    return i < result.size() && result[i] >= 'a' && result[i] <= 'z';
  };
  for (char& c : result) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  for (std::size_t i = 1; i < result.size(); ++i) {
    if (result[i] == '-' && is_letter(i - 1) && is_letter(i + 1)) result[i] = '_';
  }
  return result;
}

std::optional<Text> taken_apart(std::string_view text) {
  Text parts;
  const std::size_t open = text.find('(');
  std::string_view head = text.substr(0, open);
  if (open != std::string_view::npos) {
    if (text.back() != ')') return std::nullopt;
    parts.inside = text.substr(open + 1, text.size() - open - 2);
  }
  const std::size_t colon = head.find(':');
  if (colon != std::string_view::npos) {
    parts.variant = std::string(head.substr(colon + 1));
    head = head.substr(0, colon);
  }
  parts.name = head;
  if (!is_word(parts.name) || !is_word(parts.variant.value_or(""))) return std::nullopt;
  return parts;
}

std::optional<std::size_t> bucket_bytes(TextOptions& options) {
  const auto mb = options.number("bucket_mb", false, "auto");
  if (!mb) return std::nullopt;
  return static_cast<std::size_t>(*mb * (1 << 20));
}

Compression read_compression(TextOptions& options) {
  const std::string name = options.word("compression").value_or("none");
  const auto found = compression_from_string(name);
  if (found) return *found;
  std::string known;
  for (const std::string_view one : compression_names()) {
    known += (known.empty() ? "" : ", ") + std::string(one);
  }
  options.fail("compression=" + name + " is none of " + known);
  return Compression::kNone;
}

base::Result<Strategy> parse_all_reduce(const Text& text) {
  TextOptions options("all_reduce", text.inside);
  Strategy result;
  result.bucket_bytes = bucket_bytes(options);
  const Compression compression = read_compression(options);
  GEARSHIFT_RETURN_IF_ERROR(options.finish());
  const auto algorithm = collectives::algorithm_from_string(text.variant.value_or("auto"));
  if (!algorithm) {
    return Error(ErrorCode::kInvalidArgument,
                 "there is no all-reduce algorithm '" + *text.variant + "'");
  }
  result.kind = AllReduce{*algorithm, compression};
  return result;
}

/// "local_sgd(8)", "local_sgd(every=8)".
base::Result<Strategy> parse_local(const Text& text) {
  TextOptions options("local_sgd", text.inside);
  Strategy result;
  LocalSgd local;
  const auto every = options.whole("every", 1);
  result.bucket_bytes = bucket_bytes(options);
  local.outer_lr = options.number("outer_lr", false).value_or(local.outer_lr);
  local.outer_momentum = options.number("outer_momentum", true).value_or(0);
  local.compression = read_compression(options);
  const auto first = every ? std::nullopt : options.value();
  GEARSHIFT_RETURN_IF_ERROR(options.finish());
  local.every = every.value_or(first ? whole_number(*first).value_or(0) : local.every);
  if (local.every < 1) {
    return Error(
        ErrorCode::kInvalidArgument,
        "local_sgd: " + *first + " is no number of steps between two rounds, from 1 to a billion");
  }
  if (local.outer_momentum >= 1) {
    return Error(ErrorCode::kInvalidArgument, "local_sgd: outer_momentum must be below 1");
  }
  result.kind = local;
  return result;
}

LrScaling read_lr_scaling(TextOptions& options) {
  static constexpr std::array<std::string_view, 4> kNames{"auto", "keep", "divide", "sqrt"};
  const std::string name = options.word("lr_scaling").value_or("auto");
  const auto* const found = std::find(kNames.begin(), kNames.end(), name);
  if (found == kNames.end()) {
    options.fail("parameter_server: lr_scaling=" + name + " is none of auto, keep, divide, sqrt");
    return LrScaling::kAuto;
  }
  return static_cast<LrScaling>(found - kNames.begin());
}

/// "ssp" and "3"; "buffered" and "4", "bound=8".
base::Result<ps::Consistency> read_consistency(const std::string& kind,
                                               const std::vector<std::string>& arguments) {
  std::vector<int> numbers;
  for (std::string_view argument : arguments) {
    const std::size_t equals = argument.find('=');
    const bool bound = numbers.size() == 1 && stripped(argument.substr(0, equals)) == "bound";
    if (bound && equals != std::string_view::npos) argument = stripped(argument.substr(equals + 1));
    if (const auto number = whole_number(argument)) numbers.push_back(*number);
  }
  if (numbers.size() == arguments.size()) {
    if (kind == "bsp" && numbers.empty()) return ps::Consistency::bsp();
    if (kind == "asp" && numbers.empty()) return ps::Consistency::asp();
    if (kind == "ssp" && numbers.size() == 1) return ps::Consistency::ssp(numbers[0]);
    if (kind == "buffered" && (numbers.size() == 1 || numbers.size() == 2)) {
      return ps::Consistency::buffered(numbers[0], numbers.size() == 2 ? numbers[1] : -1);
    }
  }
  return Error(ErrorCode::kInvalidArgument,
               "parameter_server: consistency '" + kind +
                   "', with what stands in its parentheses, is none of bsp, asp, ssp(s), "
                   "buffered(m), buffered(m, bound=b), followed by options such as shards=1");
}

base::Result<Strategy> parse_server(const Text& text) {
  TextOptions options("parameter_server", text.inside);
  Strategy result;
  ParameterServer server;
  server.shards = options.whole("shards", 1).value_or(0);
  server.servers = options.whole("servers", 0).value_or(-1);
  result.bucket_bytes = bucket_bytes(options);
  server.clip_norm = options.number("clip_norm", false).value_or(0);
  server.lr_scaling = read_lr_scaling(options);
  server.divergence_factor =
      options.number("divergence_factor", true).value_or(server.divergence_factor);
  server.compression = read_compression(options);
  if (text.variant) {
    GEARSHIFT_RETURN_IF_ERROR(options.status());
    GEARSHIFT_ASSIGN_OR_RETURN(server.consistency, read_consistency(*text.variant, options.rest()));
    GEARSHIFT_RETURN_IF_ERROR(server.consistency.validate());
  } else {
    GEARSHIFT_RETURN_IF_ERROR(options.finish());
  }
  result.kind = server;
  return result;
}

/// A step, or a fraction of all; null when the text is neither.
std::shared_ptr<Policy> policy_at(std::string_view text) {
  if (const auto step = whole_number(text)) return *step > 0 ? at_step(*step) : nullptr;
  const auto fraction = decimal_number(text);
  return fraction && *fraction > 0 && *fraction < 1 ? at_fraction(*fraction) : nullptr;
}

std::shared_ptr<Policy> read_at(TextOptions& options, const std::string& key,
                                const std::optional<std::string>& text) {
  if (!text) return nullptr;
  auto policy = policy_at(*text);
  if (policy == nullptr) {
    options.fail("switch: " + key + "=" + *text +
                 " is neither a step, from 1 on, nor a fraction between 0 and 1");
  }
  return policy;
}

/// Refuses a way back that is over when the switch comes; a step and a fraction do not compare.
void check_order(TextOptions& options, const std::string& at, const std::string& back) {
  if (whole_number(at).has_value() != whole_number(back).has_value()) return;
  if (decimal_number(back) > decimal_number(at)) return;
  options.fail("switch: back=" + back + " would never happen: it must come after at=" + at);
}

/// One end of a switch; with the bucket of the job, when it is where that starts.
base::Status read_phase(TextOptions& options, const std::string& key, Phase& phase,
                        std::optional<std::size_t>* bucket) {
  const auto text = options.word(key);
  if (!text) return {};
  GEARSHIFT_ASSIGN_OR_RETURN(const Strategy read, parse(*text));
  if (std::holds_alternative<StrategySwitch>(read.kind)) {
    options.fail("switch: " + key + " cannot be a switch itself");
  } else {
    phase = phases_of(read).front();
  }
  if (bucket != nullptr) *bucket = read.bucket_bytes;
  return {};
}

base::Result<Strategy> parse_switch(const Text& text) {
  TextOptions options("switch", text.inside);
  Strategy result;
  StrategySwitch change;
  GEARSHIFT_RETURN_IF_ERROR(read_phase(options, "start", change.start, &result.bucket_bytes));
  GEARSHIFT_RETURN_IF_ERROR(read_phase(options, "then", change.then, nullptr));
  const auto at_text = options.word("at");
  const auto back_text = options.word("back");
  const auto at = read_at(options, "at", at_text);
  change.back = read_at(options, "back", back_text);
  if (at != nullptr && change.back != nullptr) check_order(options, *at_text, *back_text);
  const auto window = options.whole("window", 1);
  const auto threshold = options.number("threshold", false);
  if (at != nullptr && (window || threshold)) {
    options.fail("switch: give either at= or window= and threshold=");
  }
  GEARSHIFT_RETURN_IF_ERROR(options.finish());
  if (change.start.index() == change.then.index()) {
    return Error(
        ErrorCode::kInvalidArgument,
        "a switch goes from one of all_reduce, local_sgd and parameter_server to another; got " +
            to_string(change.start) + " and " + to_string(change.then));
  }
  change.policy = at != nullptr ? at : loss_plateau(window.value_or(6), threshold.value_or(0.01));
  result.kind = change;
  return result;
}

}  // namespace

base::Result<Strategy> parse(std::string_view text) {
  const std::string wanted = normalised(text);
  const std::optional<Text> parts = taken_apart(wanted);
  const std::string name = parts ? parts->name : "";
  if (name == "all_reduce" && parts->variant != "") return parse_all_reduce(*parts);
  if (name == "local_sgd" && !parts->variant) return parse_local(*parts);
  if (name == "ps" || name == "parameter_server") return parse_server(*parts);
  if ((name == "switch" || name == "strategy_switch") && !parts->variant) {
    return parse_switch(*parts);
  }
  return Error(
      ErrorCode::kInvalidArgument,
      "strategy '" + std::string(text) +
          "' is none of 'all_reduce', 'all_reduce:ring', 'local_sgd(8)', 'parameter_server', "
          "'ps:bsp', 'ps:asp', 'ps:ssp(3)', 'ps:buffered(4)', 'switch'");
}

}  // namespace gearshift::strategy
