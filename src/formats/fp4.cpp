// 4-bit floating-point weights (e2m1), two a byte, the even k in the low half: gpt-oss's MXFP4, NAME_blocks [experts,
// N, K/32, 16] with NAME_scales [experts, N, K/32] of e8m0; compressed-tensors' mxfp4-pack-quantized,
// NAME.weight_packed [N, K/2] with NAME.weight_scale [N, K/32] of e8m0, and nvfp4-pack-quantized, with
// NAME.weight_scale [N, K/16] of e4m3 and NAME.weight_global_scale, which divides.
#include <fmt/format.h>

#include <cmath>
#include <cstring>

#include "formats/compressed_tensors.h"
#include "formats/format_list.h"

namespace machete::formats {
namespace {

constexpr const char* kBlocks = "_blocks";
constexpr const char* kScales = "_scales";
constexpr const char* kPacked = ".weight_packed";
constexpr const char* kGlobalScale = ".weight_global_scale";
constexpr std::int64_t kMxGroup = 32;
constexpr std::int64_t kNvGroup = 16;
constexpr std::int64_t kMostExperts = 1 << 16;

/// [N, groups] bytes from `first` on as [groups, N].
std::vector<std::uint8_t> by_group(const Tensor& scales, std::int64_t first, const ForeignLayer& layer) {
  const std::int64_t groups = layer.k / layer.group_size;
  std::vector<std::uint8_t> result(static_cast<std::size_t>(groups * layer.n));
  const auto* from = static_cast<const std::uint8_t*>(scales.data) + first;
  for (std::int64_t n = 0; n < layer.n; ++n) {
    for (std::int64_t group = 0; group < groups; ++group) {
      result[static_cast<std::size_t>(group * layer.n + n)] = from[n * groups + group];
    }
  }
  return result;
}

/// Part `expert` of the weight.
reference::QuantizedTensor read_part(const Tensor& codes, const Tensor& scales, const ForeignLayer& layer) {
  reference::QuantizedTensor weight = layer.weight();
  const std::int64_t bytes = layer.n * layer.k / 2;
  const auto* from = static_cast<const std::uint8_t*>(codes.data) + layer.expert * bytes;
  weight.qweight.assign(from, from + bytes);
  weight.scales = by_group(scales, layer.expert * layer.n * (layer.k / layer.group_size), layer);
  return weight;
}

std::string recognise_blocks(const Checkpoint& checkpoint, const Tensor& tensor) {
  if (tensor.dtype != "U8" || tensor.shape.size() != 4 || tensor.bytes == 0) return "";
  std::string name = without_suffix(tensor.name, kBlocks);
  return name.empty() || checkpoint.find(name + kScales) == nullptr ? "" : name;
}

Result<ForeignLayer> describe_blocks(const Checkpoint& checkpoint, const Tensor& tensor, const std::string& name) {
  const LayerTensors tensors(checkpoint, name);
  const Tensor& scales = tensors.at(kScales);
  const std::vector<std::int64_t>& shape = tensor.shape;
  if (shape[3] != kMxGroup / 2) {
    return tensors.corrupt(kBlocks,
                           fmt::format("has shape {}; the last size must be 16, bytes of 32 codes", to_string(shape)));
  }
  if (shape[0] > kMostExperts) {
    return tensors.corrupt(kBlocks,
                           fmt::format("has shape {}; of experts there may be {}", to_string(shape), kMostExperts));
  }
  if (Status s = tensors.dtype_is(kScales, scales, {"U8", "F8_E8M0"}); !s.ok()) return s;
  if (Status s = tensors.shape_is(kScales, scales, {shape[0], shape[1], shape[2]}); !s.ok()) return s;
  ForeignLayer layer;
  layer.type = WeightType::kE2m1;
  layer.scale_type = DataType::kE8m0;
  layer.experts = shape[0];
  layer.n = shape[1];
  layer.k = shape[2] * kMxGroup;
  layer.group_size = kMxGroup;
  layer.bits = 4;
  layer.parts = {name + kBlocks, name + kScales};
  return layer;
}

std::string recognise_packed(const Checkpoint& checkpoint, const Tensor& tensor,
                             std::initializer_list<std::string_view> scale_dtypes) {
  if (tensor.dtype != "U8" || tensor.shape.size() != 2 || tensor.bytes == 0) return "";
  std::string name = without_suffix(tensor.name, kPacked);
  const Tensor* scale = name.empty() ? nullptr : checkpoint.find(name + kWeightScale);
  if (scale == nullptr) return "";
  for (const std::string_view dtype : scale_dtypes) {
    if (scale->dtype == dtype) return name;
  }
  return "";
}

Result<ForeignLayer> describe_packed(const Checkpoint& checkpoint, const Tensor& tensor, const std::string& name,
                                     std::int64_t group_size) {
  const LayerTensors tensors(checkpoint, name);
  ForeignLayer layer;
  layer.type = WeightType::kE2m1;
  layer.n = tensor.shape[0];
  layer.k = tensor.shape[1] * 2;
  layer.group_size = group_size;
  layer.bits = 4;
  layer.parts = {name + kPacked, name + kWeightScale};
  if (layer.k % group_size != 0) {
    return tensors.corrupt(kPacked, fmt::format("has shape {}, of which groups of {} codes take no whole number",
                                                to_string(tensor.shape), group_size));
  }
  if (Status s = tensors.shape_is(kWeightScale, tensors.at(kWeightScale), {layer.n, layer.k / group_size}); !s.ok()) {
    return s;
  }
  if (group_size == kMxGroup) {
    layer.scale_type = DataType::kE8m0;
    return layer;
  }
  layer.scale_type = DataType::kE4m3;
  const Tensor* global = tensors.optional(kGlobalScale);
  if (global == nullptr) return tensors.corrupt(kGlobalScale, "is missing");
  if (Status s = tensors.dtype_is(kGlobalScale, *global, {"F32"}); !s.ok()) return s;
  if (global->bytes != sizeof(float)) {
    return tensors.corrupt(kGlobalScale, fmt::format("has shape {}; it must be one number", to_string(global->shape)));
  }
  float divisor = 0;
  std::memcpy(&divisor, global->data, sizeof(float));
  layer.tensor_scale = 1 / divisor;
  if (!std::isfinite(layer.tensor_scale) || layer.tensor_scale == 0) {
    return tensors.corrupt(kGlobalScale, fmt::format("is {}; it must be finite, as must 1 divided by it", divisor));
  }
  layer.parts.push_back(name + kGlobalScale);
  return layer;
}

reference::QuantizedTensor read_packed(const Checkpoint& checkpoint, const ForeignLayer& layer) {
  const LayerTensors tensors(checkpoint, layer.stem);
  return read_part(tensors.at(kPacked), tensors.at(kWeightScale), layer);
}

}  // namespace

const Format kMxfp4Blocks = {"mxfp4", recognise_blocks, describe_blocks,
                             [](const Checkpoint& checkpoint, const ForeignLayer& layer) {
                               const LayerTensors tensors(checkpoint, layer.stem);
                               return read_part(tensors.at(kBlocks), tensors.at(kScales), layer);
                             }};
const Format kMxfp4Packed = {"mxfp4-pack-quantized",
                             [](const Checkpoint& checkpoint, const Tensor& tensor) {
                               return recognise_packed(checkpoint, tensor, {"U8", "F8_E8M0"});
                             },
                             [](const Checkpoint& checkpoint, const Tensor& tensor, const std::string& name) {
                               return describe_packed(checkpoint, tensor, name, kMxGroup);
                             },
                             read_packed};
const Format kNvfp4Packed = {"nvfp4-pack-quantized",
                             [](const Checkpoint& checkpoint, const Tensor& tensor) {
                               return recognise_packed(checkpoint, tensor, {"F8_E4M3"});
                             },
                             [](const Checkpoint& checkpoint, const Tensor& tensor, const std::string& name) {
                               return describe_packed(checkpoint, tensor, name, kNvGroup);
                             },
                             read_packed};

}  // namespace machete::formats
