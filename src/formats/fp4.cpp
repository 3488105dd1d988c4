// 4-bit floating-point weights (e2m1), recognised only: gpt-oss's MXFP4, NAME_blocks [experts, N, K/32, 16] of bytes
// with NAME_scales [experts, N, K/32] of e8m0; compressed-tensors' nvfp4-pack-quantized and mxfp4-pack-quantized,
// NAME.weight_packed [N, K/2] of bytes with NAME.weight_scale [N, K/16] of e4m3, or [N, K/32] of e8m0.
#include <fmt/format.h>

#include "formats/compressed_tensors.h"
#include "formats/format_list.h"

namespace machete::formats {
namespace {

constexpr const char* kBlocks = "_blocks";
constexpr const char* kScales = "_scales";
constexpr const char* kPacked = ".weight_packed";
constexpr const char* kUnserved = "weights of e2m1 with scales of {}; Machete has no floating-point weight type yet";

bool is_matrix(const Tensor& tensor) { return tensor.shape.size() == 2 && tensor.bytes != 0; }

std::string recognise_blocks(const Checkpoint& checkpoint, const Tensor& tensor) {
  if (tensor.dtype != "U8" || tensor.shape.size() != 4 || tensor.bytes == 0) return "";
  std::string name = without_suffix(tensor.name, kBlocks);
  return name.empty() || checkpoint.find(name + kScales) == nullptr ? "" : name;
}

Result<ForeignLayer> describe_blocks(const Checkpoint& /*checkpoint*/, const Tensor& tensor, const std::string& name) {
  ForeignLayer layer;
  layer.n = tensor.shape[0] * tensor.shape[1];  // of all experts
  layer.k = tensor.shape[2] * tensor.shape[3] * 2;
  layer.bits = 4;
  layer.parts = {name + kBlocks, name + kScales};
  layer.obstacle = fmt::format(kUnserved, "e8m0");
  return layer;
}

std::string recognise_packed(const Checkpoint& checkpoint, const Tensor& tensor, std::string_view scale_dtype) {
  if (tensor.dtype != "U8" || !is_matrix(tensor)) return "";
  std::string name = without_suffix(tensor.name, kPacked);
  const Tensor* scale = name.empty() ? nullptr : checkpoint.find(name + kWeightScale);
  return scale == nullptr || scale->dtype != scale_dtype ? "" : name;
}

Result<ForeignLayer> describe_packed(const Tensor& tensor, const std::string& name, const char* scale) {
  ForeignLayer layer;
  layer.n = tensor.shape[0];
  layer.k = tensor.shape[1] * 2;
  layer.bits = 4;
  layer.parts = {name + kPacked, name + kWeightScale};
  layer.obstacle = fmt::format(kUnserved, scale);
  return layer;
}

}  // namespace

const Format kMxfp4Blocks = {"mxfp4", recognise_blocks, describe_blocks, nullptr};
const Format kMxfp4Packed = {
    "mxfp4-pack-quantized",
    [](const Checkpoint& checkpoint, const Tensor& tensor) { return recognise_packed(checkpoint, tensor, "U8"); },
    [](const Checkpoint& /*checkpoint*/, const Tensor& tensor, const std::string& name) {
      return describe_packed(tensor, name, "e8m0");
    },
    nullptr};
const Format kNvfp4Packed = {
    "nvfp4-pack-quantized",
    [](const Checkpoint& checkpoint, const Tensor& tensor) { return recognise_packed(checkpoint, tensor, "F8_E4M3"); },
    [](const Checkpoint& /*checkpoint*/, const Tensor& tensor, const std::string& name) {
      return describe_packed(tensor, name, "e4m3");
    },
    nullptr};

}  // namespace machete::formats
