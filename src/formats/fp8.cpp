// 8-bit floating-point weights: NAME.weight [N, K] of e4m3 with NAME.weight_scale_inv [N/128, K/128], which multiplies
// (DeepSeek's block checkpoints), or with NAME.weight_scale of [N, groups], [N], one number or such blocks
// (compressed-tensors' float-quantized).
#include <fmt/format.h>

#include <cstring>

#include "formats/compressed_tensors.h"
#include "formats/format_list.h"

namespace machete::formats {
namespace {

constexpr const char* kWeight = ".weight";
constexpr const char* kBlockScale = ".weight_scale_inv";
constexpr std::int64_t kBlock = 128;

std::int64_t blocks_of(std::int64_t size) { return (size + kBlock - 1) / kBlock; }

std::string recognise(const Checkpoint& checkpoint, const Tensor& tensor, const char* scale) {
  if (tensor.dtype != "F8_E4M3" && tensor.dtype != "F8_E5M2") return "";
  if (tensor.shape.size() < 2 || tensor.bytes == 0) return "";
  std::string name = without_suffix(tensor.name, kWeight);
  return name.empty() || checkpoint.find(name + scale) == nullptr ? "" : name;
}

/// Whether the scales are those of blocks of 128 x 128. A layer of one row of blocks and one row looks like any other.
bool has_blocks(const Tensor& scales, const ForeignLayer& layer) {
  return scales.shape == std::vector<std::int64_t>{blocks_of(layer.n), blocks_of(layer.k)};
}

Result<ForeignLayer> describe(const Checkpoint& checkpoint, const Tensor& tensor, const std::string& name,
                              const char* scale) {
  const LayerTensors tensors(checkpoint, name);
  const Tensor& scales = tensors.at(scale);
  ForeignLayer layer;
  layer.type = WeightType::kE4m3;
  layer.k = tensor.shape.back();
  layer.n = static_cast<std::int64_t>(tensor.bytes) / layer.k;
  layer.bits = 8;
  layer.parts = {name + kWeight, name + scale};
  if (tensor.dtype != "F8_E4M3") {
    layer.obstacle = "weights of e5m2; Machete has e4m3";
    return layer;
  }
  if (tensor.shape.size() != 2) {
    layer.obstacle = fmt::format("weights of shape {}, which is no matrix", to_string(tensor.shape));
    return layer;
  }
  if (Status s = tensors.dtype_is(scale, scales, {"F16", "BF16", "F32"}); !s.ok()) return s;
  const auto& config = checkpoint.config();
  if (config.ok() && !config->block_size.empty() && config->block_size != std::vector<std::int64_t>{kBlock, kBlock}) {
    layer.obstacle = fmt::format("blocks of {} by weight_block_size, not of 128 x 128", to_string(config->block_size));
    return layer;
  }
  layer.scale_type = *data_type_of(scales.dtype);
  if (has_blocks(scales, layer)) {
    layer.group_size = blocks_of(layer.k) == 1 ? -1 : kBlock;
    return layer;
  }
  const bool blocks = scales.shape.size() == 2 && scales.shape[0] < layer.n && scales.shape[1] <= layer.k;
  if (scale == std::string_view(kBlockScale) || (blocks && scales.shape[0] > 1)) {
    layer.obstacle =
        fmt::format("scales of shape {}, which are not those of blocks of 128 x 128", to_string(scales.shape));
    return layer;
  }
  const Result<std::int64_t> groups = find_row_scales(tensors, layer);
  if (!groups.ok()) return groups.status();
  if (Status s = find_group_size(tensors, kWeightGIdx, *groups, layer); !s.ok()) return s;
  return layer;
}

/// The scale of a block for each of its rows.
std::vector<std::uint8_t> read_block_scales(const Tensor& scales, const ForeignLayer& layer) {
  const std::size_t bytes = bytes_of(layer.scale_type);
  const std::int64_t groups = layer.groups();
  std::vector<std::uint8_t> result(static_cast<std::size_t>(groups * layer.n) * bytes);
  const auto* from = static_cast<const std::uint8_t*>(scales.data);
  for (std::int64_t group = 0; group < groups; ++group) {
    for (std::int64_t n = 0; n < layer.n; ++n) {
      const auto source = static_cast<std::size_t>(n / kBlock * groups + group);
      std::memcpy(result.data() + static_cast<std::size_t>(group * layer.n + n) * bytes, from + source * bytes, bytes);
    }
  }
  return result;
}

reference::QuantizedTensor read(const Checkpoint& checkpoint, const ForeignLayer& layer, const char* scale) {
  const LayerTensors tensors(checkpoint, layer.stem);
  const Tensor& scales = tensors.at(scale);
  reference::QuantizedTensor weight = layer.weight();
  weight.qweight = copy_bytes(tensors.at(kWeight));
  weight.scales = has_blocks(scales, layer) ? read_block_scales(scales, layer) : read_row_scales(tensors, layer);
  return weight;
}

}  // namespace

const Format kFp8Blocks = {
    "fp8",
    [](const Checkpoint& checkpoint, const Tensor& tensor) { return recognise(checkpoint, tensor, kBlockScale); },
    [](const Checkpoint& checkpoint, const Tensor& tensor, const std::string& name) {
      return describe(checkpoint, tensor, name, kBlockScale);
    },
    [](const Checkpoint& checkpoint, const ForeignLayer& layer) { return read(checkpoint, layer, kBlockScale); }};
const Format kFloatQuantized = {
    "float-quantized",
    [](const Checkpoint& checkpoint, const Tensor& tensor) { return recognise(checkpoint, tensor, kWeightScale); },
    [](const Checkpoint& checkpoint, const Tensor& tensor, const std::string& name) {
      return describe(checkpoint, tensor, name, kWeightScale);
    },
    [](const Checkpoint& checkpoint, const ForeignLayer& layer) { return read(checkpoint, layer, kWeightScale); }};

}  // namespace machete::formats
