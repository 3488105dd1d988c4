#include "formats/foreign.h"

#include <fmt/format.h>

#include <cmath>
#include <optional>
#include <utility>

#include "formats/format_list.h"
#include "reference/numeric.h"

namespace machete::formats {
namespace {

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
