#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/safetensors.h"
#include "formats/tensor.h"
#include "machete/status.h"
#include "machete/types.h"
#include "reference/quantize.h"

namespace machete::formats {

/// One quantised linear layer of a checkpoint. Its tensors are NAME.qweight, NAME.scales, for types with zero points
/// NAME.zero_points, and with act-order NAME.g_idx, shaped as in QuantizedWeight.
struct QuantizedLayer {
  std::string name;
  std::string source;  // the tensor it was made of, and that tensor's dtype
  std::string source_dtype;
  WeightType type = WeightType::kU4b8;
  std::int64_t n = 0;
  std::int64_t k = 0;
  std::int64_t group_size = 0;
  DataType scale_type = DataType::kBf16;
  DataType zero_point_type = DataType::kU8;  // where the type has zero points
  float tensor_scale = 1;                    // times every scale
  bool act_order = false;                    // g_idx tells the group of each k
  double error = 0;                          // |W - quantised W| / |W|, Frobenius norms

  std::int64_t groups() const { return group_size > 0 ? (k + group_size - 1) / group_size : 1; }
  std::vector<TensorInfo> tensors() const;
  reference::QuantizedTensor weight() const;  // of its types and sizes, still without elements
  std::int64_t bytes() const;                 // of its tensors
  double bits_per_weight() const {
    return 8.0 * static_cast<double>(bytes()) / static_cast<double>(n) / static_cast<double>(k);
  }
};

/// The elements of a tensor of I32 [K] that names the group of each k.
std::vector<std::int32_t> read_g_idx(const Tensor& tensor);

/// How often g_idx names each group, the last perhaps less often; nothing where it does otherwise.
std::optional<std::int64_t> group_size_of(const std::vector<std::int32_t>& g_idx, std::int64_t groups);

/// What a checkpoint says about its quantised layers: JSON under "machete" in the safetensors metadata, so that the
/// file can be read back with nothing else at hand.
struct Manifest {
  static constexpr int kVersion = 1;
  static constexpr const char* kKey = "machete";

  std::vector<QuantizedLayer> layers;

  std::string to_json() const;
  Manifest widest() const;  // the same with errors that take the most room as JSON, to reserve it before they are known
};

/// Errors: no manifest, another version, layers that break a rule or whose tensors are absent or misshapen.
Result<Manifest> read_manifest(const Checkpoint& checkpoint);

/// The weight of one layer of the checkpoint's manifest.
reference::QuantizedTensor read_layer(const Checkpoint& checkpoint, const QuantizedLayer& layer);

/// The tensors of one layer, into a file that was created with room for them.
Status write_layer(SafetensorsWriter& writer, const QuantizedLayer& layer, const reference::QuantizedTensor& weight);

}  // namespace machete::formats
