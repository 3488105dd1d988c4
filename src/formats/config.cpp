#include "formats/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "formats/tensor.h"

namespace machete::formats {
namespace {

using Json = nlohmann::json;
using Scheme = QuantizationConfig::Scheme;

const Json* find(const Json& config, const char* key) {
  const auto found = config.find(key);
  return found == config.end() || found->is_null() ? nullptr : &*found;
}

void take(const Json& config, const char* key, std::string& value) {
  const Json* found = find(config, key);
  if (value.empty() && found != nullptr) value = found->get<std::string>();
}

std::int64_t integer(const Json& json) { return json.get_ref<const Json::number_integer_t&>(); }

/// Of GPTQ or AutoAWQ, which has names of its own in quant_config.json.
void take_scheme(const Json& config, const char* bits, const char* group_size, QuantizationConfig& result) {
  if (!result.schemes.empty() || find(config, bits) == nullptr) return;
  if (find(config, "dynamic") != nullptr) return;  // GPTQModel's exceptions, layer by layer
  const Json* size = find(config, group_size);
  result.schemes.push_back({integer(config.at(bits)), size == nullptr ? 0 : integer(*size)});
}

/// Of compressed-tensors: weights of a config group.
Scheme scheme_of(const Json& weights) {
  Scheme scheme;
  if (const Json* bits = find(weights, "num_bits")) scheme.bits = integer(*bits);
  const Json* strategy = find(weights, "strategy");
  if (const Json* size = find(weights, "group_size")) {
    scheme.group_size = integer(*size);
  } else if (strategy != nullptr && (*strategy == "channel" || *strategy == "tensor")) {
    scheme.group_size = -1;
  }
  return scheme;
}

void take_groups(const Json& config, QuantizationConfig& result) {
  take(config, "format", result.format);
  const Json* groups = find(config, "config_groups");
  if (groups == nullptr || !groups->is_object()) return;
  for (const Json& group : *groups) {
    const Json* weights = group.is_object() ? find(group, "weights") : nullptr;
    if (weights != nullptr) result.schemes.push_back(scheme_of(*weights));
  }
}

/// The object that speaks of the quantisation: all of a file of its own, a part of the model's.
const Json& part_of(const Json& json) {
  for (const char* key : {"quantization_config", "compression_config"}) {
    const Json* part = json.is_object() ? find(json, key) : nullptr;
    if (part != nullptr) return *part;
  }
  return json;
}

void take_all(const Json& json, const std::string& name, QuantizationConfig& result) {
  const Json& config = part_of(json);
  if (!config.is_object()) return;
  take(config, "quant_method", result.method);
  take(config, "checkpoint_format", result.checkpoint_format);
  if (name == "quant_config.json" && result.method.empty() && find(config, "w_bit") != nullptr) result.method = "awq";
  if (result.method == "awq") take(config, "version", result.version);
  if (&config == &json && name == "config.json") return;  // a model's, which has words of its own for other things
  if (result.method == "compressed-tensors") {
    take_groups(config, result);
  } else if (result.method == "fp8") {
    const Json* size = find(config, "weight_block_size");
    if (size != nullptr && result.block_size.empty()) {
      for (const Json& side : *size) result.block_size.push_back(integer(side));
    }
  } else if (result.method.empty() || result.method == "gptq" || result.method == "awq") {
    take_scheme(config, "bits", "group_size", result);
    take_scheme(config, "w_bit", "q_group_size", result);
  }
}

}  // namespace

Status add_config(const std::string& name, std::string_view text, QuantizationConfig& config) {
  try {
    take_all(Json::parse(text), name, config);
  } catch (const Json::exception& error) {
    return {StatusCode::kCorrupt, fmt::format("{}: {}", name, quote(error.what()))};
  }
  if (config.file.empty() && (!config.method.empty() || !config.schemes.empty())) config.file = name;
  std::transform(config.version.begin(), config.version.end(), config.version.begin(),
                 [](unsigned char letter) { return static_cast<char>(std::tolower(letter)); });
  return {};
}

Result<QuantizationConfig> read_config(const std::string& folder) {
  QuantizationConfig result;
  for (const char* name : {"quantize_config.json", "quant_config.json", "config.json"}) {
    const std::filesystem::path path = std::filesystem::path(folder) / name;
    std::ifstream stream(path);
    if (!stream) continue;
    const std::string text{std::istreambuf_iterator<char>(stream), {}};
    const Status status = add_config(name, text, result);
    if (!status.ok()) return Status(status.code(), (path.parent_path() / status.message()).string());
  }
  return result;
}

}  // namespace machete::formats
