#include "formats/foreign.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "formats/format_list.h"
#include "reference/numeric.h"

namespace machete::formats {
namespace {

bool is_one_of(std::string_view name, std::initializer_list<std::string_view> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

/// Whether the configuration speaks of layers of this format.
bool speaks_of(const QuantizationConfig& config, std::string_view format) {
  if (config.method == "awq") return format == "awq";
  if (config.method == "compressed-tensors") {
    return is_one_of(
        format, {"pack-quantized", "int-quantized", "float-quantized", "mxfp4-pack-quantized", "nvfp4-pack-quantized"});
  }
  return (config.method.empty() || config.method == "gptq") && is_one_of(format, {"gptq", "gptq_v2"});
}

bool matches(const QuantizationConfig::Scheme& scheme, const ForeignLayer& layer) {
  if (scheme.bits != 0 && scheme.bits != layer.bits) return false;
  const bool whole_rows = layer.group_size == -1;
  return scheme.group_size == 0 || scheme.group_size == layer.group_size ||
         (whole_rows && scheme.group_size >= layer.k);
}

std::string name_of(const QuantizationConfig::Scheme& scheme) {
  return scheme.group_size == 0 ? fmt::format("{} bits", scheme.bits)
                                : fmt::format("{} bits in groups of {}", scheme.bits, scheme.group_size);
}

/// What the configuration says of a layer otherwise than its tensors; empty if it agrees.
std::string contradiction(const QuantizationConfig& config, const ForeignLayer& layer) {
  const bool mixed = is_one_of(config.format, {"", "mixed-precision", "naive-quantized"});
  if (!mixed && config.format != layer.format->name) {
    return fmt::format("{} says format {}", config.file, quote(config.format));
  }
  std::string said;
  for (const QuantizationConfig::Scheme& scheme : config.schemes) {
    if (matches(scheme, layer)) return "";
    said += (said.empty() ? "" : " or ") + name_of(scheme);
  }
  return said.empty() ? "" : fmt::format("{} says {}", config.file, said);
}

/// Tensors have the last word, and the layer a note where the configuration contradicts them. But without a g_idx as
/// many groups may be of another size, the last one smaller, which only the configuration tells.
Status check_config(const Checkpoint& checkpoint, ForeignLayer& layer) {
  if (layer.format == &kGguf) return {};  // which has its configuration within
  if (!checkpoint.config().ok()) return checkpoint.config().status();
  const QuantizationConfig& config = *checkpoint.config();
  if (!layer.obstacle.empty() || !speaks_of(config, layer.format->name)) return {};
  layer.note = contradiction(config, layer);
  const bool has_g_idx = std::any_of(layer.parts.begin(), layer.parts.end(),
                                     [](const std::string& part) { return part.find("g_idx") != std::string::npos; });
  if (layer.note.empty() || has_g_idx || layer.group_size < 0) return {};
  for (const QuantizationConfig::Scheme& scheme : config.schemes) {
    const std::int64_t size = scheme.group_size;
    if (scheme.bits != layer.bits || size < 1 || (layer.k + size - 1) / size != layer.groups()) continue;
    return {StatusCode::kCorrupt,
            fmt::format("{}: tensor {} has {} groups, of {} by its K={}, but {}; give the layer a g_idx, or correct "
                        "what is wrong",
                        checkpoint.path(), quote(layer.source), layer.groups(), layer.group_size, layer.k, layer.note)};
  }
  return {};
}

/// Of one tensor, by the first format that knows it; nothing if none does.
Result<std::optional<ForeignLayer>> describe(const Checkpoint& checkpoint, const Tensor& tensor) {
  for (const Format* format : kAllFormats) {
    const std::string name = format->recognise(checkpoint, tensor);
    if (name.empty()) continue;
    Result<ForeignLayer> layer = format->describe(checkpoint, tensor, name);
    if (!layer.ok()) return layer.status();
    layer->format = format;
    layer->name = layer->stem = name;
    layer->source = tensor.name;
    layer->source_dtype = std::string(format->name);
    if (Status status = check_config(checkpoint, *layer); !status.ok()) return status;
    return std::optional(*std::move(layer));
  }
  return std::optional<ForeignLayer>();
}

Status check_finite(const Checkpoint& checkpoint, const ForeignLayer& layer, const char* what, DataType type,
                    const std::vector<std::uint8_t>& numbers) {
  const auto count = static_cast<std::int64_t>(numbers.size() / bytes_of(type));
  for (std::int64_t i = 0; i < count; ++i) {
    const float value = reference::to_float(type, numbers.data(), i);
    if (std::isfinite(value)) continue;
    return {StatusCode::kCorrupt,
            fmt::format("{}: tensor {}: the {} of row {}, group {}, is {}; it must be finite", checkpoint.path(),
                        quote(layer.source), what, i % layer.n, i / layer.n, value)};
  }
  return {};
}

}  // namespace

Result<std::vector<ForeignLayer>> find_foreign_layers(const Checkpoint& checkpoint) {
  std::vector<ForeignLayer> layers;
  for (const Tensor& tensor : checkpoint.tensors()) {
    Result<std::optional<ForeignLayer>> layer = describe(checkpoint, tensor);
    if (!layer.ok()) return layer.status();
    if (!layer->has_value()) continue;
    ForeignLayer& found = **layer;
    for (found.expert = 0; found.expert < found.experts; ++found.expert) {
      if (found.experts > 1) found.name = fmt::format("{}.{}", found.stem, found.expert);
      layers.push_back(found);
    }
  }
  return layers;
}

Result<reference::QuantizedTensor> read_foreign_layer(const Checkpoint& checkpoint, const ForeignLayer& layer) {
  reference::QuantizedTensor weight = layer.format->read(checkpoint, layer);
  Status status = check_finite(checkpoint, layer, "scale", weight.scale_type, weight.scales);
  if (status.ok()) status = check_finite(checkpoint, layer, "zero point", weight.zero_point_type, weight.zero_points);
  if (!status.ok()) return status;
  return weight;
}

}  // namespace machete::formats
