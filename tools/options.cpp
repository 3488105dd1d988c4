#include "options.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <nlohmann/json.hpp>
#include <string_view>
#include <system_error>

namespace machete::tools {
namespace {

template <class T>
T checked(const Result<T>& result, const char* option) {
  if (!result.ok()) throw CLI::ValidationError(option, result.status().message());
  return *result;
}

Device parse_device(std::string_view text) {
  if (text == "cpu") return Device::cpu();
  if (text == "cuda") return Device::cuda();
  constexpr std::string_view kPrefix = "cuda:";
  if (text.substr(0, kPrefix.size()) == kPrefix) {
    const std::string_view digits = text.substr(kPrefix.size());
    int ordinal = -1;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), ordinal);
    if (error == std::errc() && end == digits.data() + digits.size() && ordinal >= 0) return Device::cuda(ordinal);
  }
  throw CLI::ValidationError("--device", fmt::format("'{}' must be cpu, cuda or cuda:NUMBER", text));
}

constexpr std::array<DataType, 4> kActivationTypes = {DataType::kBf16, DataType::kF16, DataType::kS8, DataType::kE4m3};

}  // namespace

CLI::Option* add_device(CLI::App& app, std::optional<Device>& device) {
  return app
      .add_option_function<std::string>(
          "--device", [&device](const std::string& text) { device = parse_device(text); },
          "cpu, cuda or cuda:NUMBER; by default the first Hopper GPU, else the CPU")
      ->type_name("DEVICE");
}

CLI::Option* add_a_types(CLI::App& app, std::vector<DataType>& types) {
  return app
      .add_option_function<std::vector<std::string>>(
          "--a",
          [&types](const std::vector<std::string>& names) {
            types.clear();
            for (const std::string& name : names) {
              const DataType type = checked(parse_data_type(name), "--a");
              types.push_back(type);
              if (std::find(kActivationTypes.begin(), kActivationTypes.end(), type) != kActivationTypes.end()) continue;
              throw CLI::ValidationError("--a", fmt::format("'{}' must be bf16, f16, s8 or e4m3", name_of(type)));
            }
          },
          "activation types: bf16, f16, s8, e4m3")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->option_text("TYPE,...");
}

CLI::Option* add_weight_type(CLI::App& app, WeightType& type) {
  std::vector<std::string_view> names;
  for (const WeightType known : weight_types()) names.push_back(name_of(known));
  return app
      .add_option_function<std::string>(
          "--type", [&type](const std::string& name) { type = checked(parse_weight_type(name), "--type"); },
          fmt::format("weight type: {}; default u4b8", fmt::join(names, ", ")))
      ->type_name("TYPE");
}

CLI::Option* add_group_size(CLI::App& app, std::int64_t& group_size) {
  return app
      .add_option("--group-size", group_size,
                  "elements of K that share a scale: a multiple of 16, or -1 for all; default 128")
      ->check([](const std::string& text) {
        std::int64_t value = 0;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
        const bool number = error == std::errc() && end == text.data() + text.size();
        if (number && (value == -1 || (value > 0 && value % 16 == 0))) return std::string();
        return fmt::format("'{}' must be -1 or a positive multiple of 16", text);
      })
      ->type_name("SIZE");
}

CLI::Option* add_fast_accumulation(CLI::App& app, bool& fast) {
  return app.add_flag("--fast-accumulation", fast, "with e4m3 activations: sums of a whole group in the tensor cores");
}

CLI::Option* add_json(CLI::App& app, bool& json) {
  return app.add_flag("--json", json, "print JSON, and nothing else, to stdout");
}

CLI::Option* add_checkpoint(CLI::App& app, std::string& input) {
  return app.add_option("INPUT", input, "a .safetensors file, a *.safetensors.index.json, or a folder with either")
      ->required()
      ->option_text(" ");
}

void add_plan_flags(CLI::App& app, bool& overlap, bool& batch_invariant) {
  app.add_flag("--overlap", overlap, "plan with programmatic dependent launch");
  app.add_flag("--batch-invariant", batch_invariant, "plan for the same bits whatever M (up to 64)");
}

void ProblemOptions::add_to(CLI::App& app, bool required) {
  CLI::Option* tokens = app.add_option("M", m, "tokens");
  CLI::Option* outputs = app.add_option("N", n, "output features");
  CLI::Option* inputs = app.add_option("K", k, "input features");
  tokens->required(required)->needs(outputs)->option_text(" ");
  outputs->required(required)->needs(inputs)->option_text(" ");
  inputs->required(required)->option_text(" ");
  app.add_option_function<std::string>(
         "--a", [this](const std::string& name) { a_type = checked(parse_data_type(name), "--a"); },
         "activation type: bf16, f16, s8 or e4m3; default bf16")
      ->type_name("TYPE");
  add_weight_type(app, w_type);
  add_group_size(app, group_size);
  add_fast_accumulation(app, fast_accumulation);
  add_device(app, device);
}

Problem ProblemOptions::problem() const {
  Problem problem;
  problem.m = m.value_or(0);
  problem.n = n.value_or(0);
  problem.k = k.value_or(0);
  problem.a_type = a_type;
  problem.d_type = bits_of(a_type) == 16 ? a_type : DataType::kBf16;
  problem.w_type = w_type;
  problem.group_size = group_size;
  problem.fast_accumulation = fast_accumulation;
  return problem;
}

std::string to_string(Device device) {
  return device.backend == Backend::kCpu ? "cpu" : fmt::format("cuda:{}", device.ordinal);
}

std::string to_string(const Problem& problem) {
  return fmt::format("M={} N={} K={}, a {}, w {}, group size {}", problem.m, problem.n, problem.k,
                     name_of(problem.a_type), name_of(problem.w_type), problem.group_size);
}

nlohmann::ordered_json to_json(const Problem& problem) {
  return {{"m", problem.m},
          {"n", problem.n},
          {"k", problem.k},
          {"a_type", name_of(problem.a_type)},
          {"w_type", name_of(problem.w_type)},
          {"group_size", problem.group_size},
          {"fast_accumulation", problem.fast_accumulation}};
}

nlohmann::ordered_json to_json(const ScheduleChoice& choice) {
  return {{"schedule", choice.name},
          {"estimate_us", choice.estimate_us},
          {"workspace_bytes", choice.workspace_size},
          {"reason", choice.reason}};
}

}  // namespace machete::tools
