#include "formats/manifest.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

namespace machete::formats {
namespace {

using Json = nlohmann::ordered_json;

Json to_json(const QuantizedLayer& layer) {
  Json json = {{"source", layer.source},
               {"source_dtype", layer.source_dtype},
               {"type", name_of(layer.type)},
               {"n", layer.n},
               {"k", layer.k},
               {"group_size", layer.group_size},
               {"scale_type", name_of(layer.scale_type)},
               {"error", layer.error}};
  if (has_zero_points(layer.type)) json["zero_point_type"] = name_of(layer.zero_point_type);
  if (layer.tensor_scale != 1) json["tensor_scale"] = layer.tensor_scale;
  if (layer.act_order) json["act_order"] = true;
  return json;
}

Status corrupt(const Checkpoint& checkpoint, const std::string& what) {
  return {StatusCode::kCorrupt, fmt::format("{}: its machete manifest: {}", checkpoint.path(), what)};
}

/// Throws nlohmann's exceptions where fields are absent or of another type.
Result<QuantizedLayer> parse_layer(const std::string& name, const Json& json) {
  QuantizedLayer layer;
  layer.name = name;
  layer.source = json.at("source").get<std::string>();
  layer.source_dtype = json.at("source_dtype").get<std::string>();
  const Result<WeightType> type = parse_weight_type(json.at("type").get_ref<const std::string&>());
  if (!type.ok()) return type.status();
  layer.type = *type;
  const Result<DataType> scale_type = parse_data_type(json.at("scale_type").get_ref<const std::string&>());
  if (!scale_type.ok()) return scale_type.status();
  layer.scale_type = *scale_type;
  if (has_zero_points(layer.type) && json.contains("zero_point_type")) {
    const Result<DataType> zeros = parse_data_type(json.at("zero_point_type").get_ref<const std::string&>());
    if (!zeros.ok()) return zeros.status();
    layer.zero_point_type = *zeros;
  }
  if (layer.scale_type == DataType::kU8)
    return Status(StatusCode::kCorrupt, "scale_type must be f16, bf16, f32, e4m3 or e8m0");
  if (json.contains("tensor_scale")) layer.tensor_scale = json.at("tensor_scale").get<float>();
  if (!std::isfinite(layer.tensor_scale) || layer.tensor_scale == 0) {
    return Status(StatusCode::kCorrupt, "tensor_scale must be finite and not 0");
  }
  layer.act_order = json.value("act_order", false);
  layer.error = json.at("error").get<double>();
  const auto integer = [&json](const char* key) {
    const Json& value = json.at(key);
    // Sizes this large have no place in a file; without them no sum below overflows.
    const bool sane =
        value.is_number_integer() && (!value.is_number_unsigned() || value.get<std::uint64_t>() >> 48 == 0);
    return sane ? value.get<std::int64_t>() : std::int64_t{0};
  };
  layer.n = integer("n");
  layer.k = integer("k");
  layer.group_size = integer("group_size");
  if (layer.n < 1 || layer.k < 1) return Status(StatusCode::kCorrupt, "n and k must be integers from 1 to 2^48");
  if (layer.group_size != -1 && (layer.group_size < 16 || layer.group_size % 16 != 0)) {
    return Status(StatusCode::kCorrupt, "group_size must be -1 or a positive multiple of 16");
  }
  return layer;
}

/// The layer's tensors must be there, with the dtypes and shapes that the layer has.
Status check_tensors(const Checkpoint& checkpoint, const QuantizedLayer& layer) {
  for (const TensorInfo& expected : layer.tensors()) {
    const Tensor* tensor = checkpoint.find(expected.name);
    if (tensor == nullptr) return corrupt(checkpoint, fmt::format("tensor {} is missing", quote(expected.name)));
    if (tensor->dtype != expected.dtype || tensor->shape != expected.shape) {
      return corrupt(checkpoint,
                     fmt::format("tensor {} is {} of shape {}; it must be {} of shape {}", quote(expected.name),
                                 tensor->dtype, to_string(tensor->shape), expected.dtype, to_string(expected.shape)));
    }
  }
  if (!layer.act_order) return {};
  const std::string name = layer.name + ".g_idx";
  const std::int64_t size = layer.group_size > 0 ? layer.group_size : layer.k;
  if (group_size_of(read_g_idx(*checkpoint.find(name)), layer.groups()) == size) return {};
  return corrupt(checkpoint, fmt::format("tensor {} must name each of the {} groups {} times, the last the rest",
                                         quote(name), layer.groups(), size));
}

}  // namespace

std::vector<TensorInfo> QuantizedLayer::tensors() const {
  std::vector<TensorInfo> tensors = {{name + ".qweight", "U8", {n, weight().view().row_bytes()}},
                                     {name + ".scales", std::string(dtype_of(scale_type)), {groups(), n}}};
  if (has_zero_points(type)) {
    tensors.push_back({name + ".zero_points", std::string(dtype_of(zero_point_type)), {groups(), n}});
  }
  if (act_order) tensors.push_back({name + ".g_idx", "I32", {k}});
  return tensors;
}

reference::QuantizedTensor QuantizedLayer::weight() const {
  reference::QuantizedTensor weight;
  weight.type = type;
  weight.n = n;
  weight.k = k;
  weight.group_size = group_size;
  weight.scale_type = scale_type;
  weight.zero_point_type = zero_point_type;
  weight.tensor_scale = tensor_scale;
  return weight;
}

std::vector<std::int32_t> read_g_idx(const Tensor& tensor) {
  std::vector<std::int32_t> g_idx(tensor.bytes / sizeof(std::int32_t));
  if (!g_idx.empty()) std::memcpy(g_idx.data(), tensor.data, g_idx.size() * sizeof(std::int32_t));
  return g_idx;
}

std::optional<std::int64_t> group_size_of(const std::vector<std::int32_t>& g_idx, std::int64_t groups) {
  std::vector<std::int64_t> counts(static_cast<std::size_t>(groups));
  for (const std::int32_t group : g_idx) {
    if (group < 0 || group >= groups) return std::nullopt;
    ++counts[static_cast<std::size_t>(group)];
  }
  const bool full =
      std::all_of(counts.begin(), counts.end() - 1, [&](std::int64_t count) { return count == counts[0]; });
  if (!full || counts.back() < 1 || counts.back() > counts[0]) return std::nullopt;
  return counts[0];
}

std::int64_t QuantizedLayer::bytes() const {
  std::int64_t sum = 0;
  for (const TensorInfo& tensor : tensors()) {
    if (const Result<std::int64_t> bytes = bytes_of_tensor(tensor); bytes.ok()) sum += *bytes;
  }
  return sum;
}

std::string Manifest::to_json() const {
  Json json = {{"version", kVersion}, {"layers", Json::object()}};
  for (const QuantizedLayer& layer : layers) json["layers"][layer.name] = formats::to_json(layer);
  return json.dump();
}

Manifest Manifest::widest() const {
  Manifest manifest = *this;
  for (QuantizedLayer& layer : manifest.layers) layer.error = -1.2345678901234567e-100;  // all 17 digits, both signs
  return manifest;
}

Result<Manifest> read_manifest(const Checkpoint& checkpoint) {
  const auto entry = checkpoint.metadata().find(Manifest::kKey);
  if (entry == checkpoint.metadata().end()) {
    return Status(StatusCode::kInvalidArgument,
                  fmt::format("{}: has no machete manifest in its metadata; quantise it first: machete quantize {} -o "
                              "OUTPUT",
                              checkpoint.path(), checkpoint.path()));
  }
  try {
    const Json json = Json::parse(entry->second);
    if (const Json& version = json.at("version"); version != Manifest::kVersion) {
      return Status(StatusCode::kIncompatible,
                    fmt::format("{}: its machete manifest has version {}, this build reads {}; quantise it again",
                                checkpoint.path(), version.dump(), Manifest::kVersion));
    }
    Manifest manifest;
    for (const auto& [name, value] : json.at("layers").items()) {
      Result<QuantizedLayer> layer = parse_layer(name, value);
      if (!layer.ok()) {
        return corrupt(checkpoint, fmt::format("layer {}: {}", quote(name), layer.status().message()));
      }
      if (Status status = check_tensors(checkpoint, *layer); !status.ok()) return status;
      manifest.layers.push_back(*std::move(layer));
    }
    return manifest;
  } catch (const Json::exception& error) {
    return corrupt(checkpoint, quote(error.what()));
  }
}

reference::QuantizedTensor read_layer(const Checkpoint& checkpoint, const QuantizedLayer& layer) {
  reference::QuantizedTensor weight = layer.weight();
  weight.qweight = copy_bytes(*checkpoint.find(layer.name + ".qweight"));
  weight.scales = copy_bytes(*checkpoint.find(layer.name + ".scales"));
  if (has_zero_points(layer.type)) weight.zero_points = copy_bytes(*checkpoint.find(layer.name + ".zero_points"));
  if (layer.act_order) weight.g_idx = read_g_idx(*checkpoint.find(layer.name + ".g_idx"));
  return weight;
}

Status write_layer(SafetensorsWriter& writer, const QuantizedLayer& layer, const reference::QuantizedTensor& weight) {
  const auto write = [&](const char* suffix, const std::vector<std::uint8_t>& bytes) {
    return writer.write(layer.name + suffix, bytes.data(), bytes.size());
  };
  if (Status status = write(".qweight", weight.qweight); !status.ok()) return status;
  if (Status status = write(".scales", weight.scales); !status.ok()) return status;
  if (!weight.zero_points.empty()) {
    if (Status status = write(".zero_points", weight.zero_points); !status.ok()) return status;
  }
  if (weight.g_idx.empty()) return {};
  return writer.write(layer.name + ".g_idx", weight.g_idx.data(), weight.g_idx.size() * sizeof(std::int32_t));
}

}  // namespace machete::formats
