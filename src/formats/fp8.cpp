// 8-bit floating-point weights, recognised only: NAME.weight [N, K] of e4m3 or e5m2 with NAME.weight_scale_inv [N/128,
// K/128] (DeepSeek's block checkpoints), or with NAME.weight_scale (compressed-tensors' float-quantized).
#include <fmt/format.h>

#include "formats/compressed_tensors.h"
#include "formats/format_list.h"

namespace machete::formats {
namespace {

constexpr const char* kWeight = ".weight";
constexpr const char* kBlockScale = ".weight_scale_inv";

std::string recognise(const Checkpoint& checkpoint, const Tensor& tensor, const char* scale) {
  if (tensor.dtype != "F8_E4M3" && tensor.dtype != "F8_E5M2") return "";
  if (tensor.shape.size() < 2 || tensor.bytes == 0) return "";
  std::string name = without_suffix(tensor.name, kWeight);
  return name.empty() || checkpoint.find(name + scale) == nullptr ? "" : name;
}

Result<ForeignLayer> describe(const Checkpoint& checkpoint, const Tensor& tensor, const std::string& name,
                              const char* scale) {
  const LayerTensors tensors(checkpoint, name);
  ForeignLayer layer;
  layer.k = tensor.shape.back();
  layer.n = static_cast<std::int64_t>(tensor.bytes) / layer.k;  // of all experts, where there are several
  layer.bits = 8;
  layer.parts = {name + kWeight, name + scale};
  layer.obstacle = fmt::format("weights of {} with scales of shape {}; Machete has no floating-point weight type yet",
                               tensor.dtype == "F8_E4M3" ? "e4m3" : "e5m2", to_string(tensors.at(scale).shape));
  return layer;
}

}  // namespace

const Format kFp8Blocks = {
    "fp8",
    [](const Checkpoint& checkpoint, const Tensor& tensor) { return recognise(checkpoint, tensor, kBlockScale); },
    [](const Checkpoint& checkpoint, const Tensor& tensor, const std::string& name) {
      return describe(checkpoint, tensor, name, kBlockScale);
    },
    nullptr};
const Format kFloatQuantized = {
    "float-quantized",
    [](const Checkpoint& checkpoint, const Tensor& tensor) { return recognise(checkpoint, tensor, kWeightScale); },
    [](const Checkpoint& checkpoint, const Tensor& tensor, const std::string& name) {
      return describe(checkpoint, tensor, name, kWeightScale);
    },
    nullptr};

}  // namespace machete::formats
