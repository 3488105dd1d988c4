#pragma once

#include <string>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/manifest.h"
#include "machete/types.h"

namespace machete::tools {

/// Activations with which a layer runs.
struct Activations {
  Backend backend;
  DataType type;
  bool rounds_scales;  // prepack must be allowed to round scales or zero points (--round-scales)
};

/// Of this build, backend by backend. `parts` are the layer's tensors.
std::vector<Activations> activations_of(const formats::Checkpoint& checkpoint, const formats::QuantizedLayer& layer,
                                        const std::vector<std::string>& parts);

/// "cpu: bf16, f16*, s8; cuda: bf16", a * where scales are rounded.
std::string to_string(const std::vector<Activations>& activations);

}  // namespace machete::tools
