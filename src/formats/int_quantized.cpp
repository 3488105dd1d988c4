// compressed-tensors' int-quantized (and naive-quantized of integers): NAME.weight [N, K] of int8, NAME.weight_scale
// [N, groups], [N] or one number, and perhaps NAME.weight_zero_point of int8, shaped like the scales.
#include <fmt/format.h>

#include <algorithm>

#include "formats/compressed_tensors.h"
#include "formats/format_list.h"

namespace machete::formats {
namespace {

constexpr const char* kWeight = ".weight";
constexpr int kBits = 8;
constexpr std::uint8_t kMiddle = 128;

std::string recognise(const Checkpoint& checkpoint, const Tensor& tensor) {
  if (tensor.dtype != "I8" || tensor.shape.size() < 2 || tensor.bytes == 0) return "";
  std::string name = without_suffix(tensor.name, kWeight);
  return name.empty() || checkpoint.find(name + kWeightScale) == nullptr ? "" : name;
}

Result<ForeignLayer> describe(const Checkpoint& checkpoint, const Tensor& weight, const std::string& name) {
  const LayerTensors tensors(checkpoint, name);
  ForeignLayer layer;
  layer.k = weight.shape.back();
  layer.n = static_cast<std::int64_t>(weight.bytes) / layer.k;
  layer.bits = kBits;
  layer.type = WeightType::kS8;
  layer.parts = {name + kWeight, name + kWeightScale};
  if (weight.shape.size() != 2) {
    layer.obstacle = fmt::format("weights of shape {}, which is no matrix", to_string(weight.shape));
    return layer;
  }
  const Result<std::int64_t> groups = find_row_scales(tensors, layer);
  if (!groups.ok()) return groups.status();
  for (const char* suffix : {kWeightZeroPoint, kWeightGIdx}) {
    if (tensors.optional(suffix) != nullptr) layer.parts.push_back(name + suffix);
  }
  if (Status s = find_group_size(tensors, kWeightGIdx, *groups, layer); !s.ok()) return s;
  const Tensor* zeros = tensors.optional(kWeightZeroPoint);
  if (!layer.obstacle.empty() || zeros == nullptr) return layer;
  if (Status s = tensors.dtype_is(kWeightZeroPoint, *zeros, {"I8"}); !s.ok()) return s;
  if (Status s = tensors.shape_is(kWeightZeroPoint, *zeros, tensors.at(kWeightScale).shape); !s.ok()) return s;
  const std::vector<std::uint8_t> values = read_row_zeros(tensors, layer);
  const bool symmetric = std::all_of(values.begin(), values.end(), [](std::uint8_t zero) { return zero == kMiddle; });
  if (!symmetric) layer.type = WeightType::kU8;
  return layer;
}

reference::QuantizedTensor read(const Checkpoint& checkpoint, const ForeignLayer& layer) {
  const LayerTensors tensors(checkpoint, layer.stem);
  reference::QuantizedTensor weight = layer.weight();
  weight.qweight = copy_bytes(tensors.at(kWeight));
  weight.scales = read_row_scales(tensors, layer);
  weight.g_idx = read_order(tensors, kWeightGIdx, layer);
  if (!has_zero_points(layer.type)) return weight;
  for (std::uint8_t& code : weight.qweight) code = static_cast<std::uint8_t>(code ^ kMiddle);  // from the lowest code
  weight.zero_points = read_row_zeros(tensors, layer);
  return weight;
}

}  // namespace

const Format kIntQuantized = {"int-quantized", recognise, describe, read};

}  // namespace machete::formats
