#include "formats/config.h"

#include <fmt/format.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "formats/tensor.h"

namespace machete::formats {
namespace {

using Json = nlohmann::json;

void take(const Json& config, const char* key, std::string& value) {
  if (value.empty() && config.contains(key) && !config.at(key).is_null()) value = config.at(key).get<std::string>();
}

}  // namespace

Result<QuantizationConfig> read_config(const std::string& folder) {
  QuantizationConfig result;
  for (const char* name : {"quantize_config.json", "config.json"}) {
    const std::filesystem::path path = std::filesystem::path(folder) / name;
    std::ifstream stream(path);
    if (!stream) continue;
    try {
      const Json json = Json::parse(stream);
      const Json& config = json.contains("quantization_config") ? json.at("quantization_config") : json;
      take(config, "quant_method", result.method);
      take(config, "checkpoint_format", result.checkpoint_format);
      if (result.method == "awq") take(config, "version", result.version);
    } catch (const Json::exception& error) {
      return Status(StatusCode::kCorrupt, fmt::format("{}: {}", path.string(), quote(error.what())));
    }
  }
  return result;
}

}  // namespace machete::formats
