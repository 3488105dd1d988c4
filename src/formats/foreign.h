#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/manifest.h"
#include "machete/status.h"
#include "reference/quantize.h"

namespace machete::formats {

/// How other tools lay out quantised layers. Eight 4-bit elements share an int32 in each, the first in its lowest bits.
///
/// | format        | qweight               | packed along                          | zero points          |
/// |---------------|-----------------------|---------------------------------------|----------------------|
/// | gptq          | qweight [K/8, N]      | K                                     | qzeros, less 1, on N |
/// | gptq_v2       | the same              | K                                     | qzeros, on N         |
/// | awq           | qweight [K, N/8]      | N, in the order 0 2 4 6 1 3 5 7       | qzeros, likewise     |
/// | pack-quantized| weight_packed [N,K/8] | K; elements and zero points plus 8    | none, or on N        |
enum class ForeignFormat { kGptq, kGptqV2, kAwq, kPackQuantized };
std::string_view name_of(ForeignFormat format);

/// One layer of another tool's checkpoint, as the layer of ours that it becomes: of type u4 where a zero point differs
/// from 8, its scales as they are, its source_dtype the name of the format.
struct ForeignLayer : QuantizedLayer {
  ForeignFormat format = ForeignFormat::kGptq;
  int bits = 0;
  std::vector<std::string> parts;  // the tensors it consists of, its bias left out
  std::string obstacle;            // why it cannot be read as one of our types; empty if it can
};

/// The layers that other tools have quantised, recognised by the names, dtypes and shapes of their tensors; for GPTQ's
/// version, which does not show there, by config.json or quantize_config.json beside the checkpoint (version 1 unless
/// either says gptq_v2). Errors name the tensor whose shape or dtype contradicts the others.
Result<std::vector<ForeignLayer>> find_foreign_layers(const Checkpoint& checkpoint);

/// The layer in canonical form; the same codes, zero points and scales, bit for bit. The layer has no obstacle.
reference::QuantizedTensor read_foreign_layer(const Checkpoint& checkpoint, const ForeignLayer& layer);

}  // namespace machete::formats
