#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/manifest.h"
#include "machete/status.h"
#include "reference/quantize.h"

namespace machete::tools {

/// A checkpoint with layers of ours in the place of some tensors.
struct Rewrite {
  formats::Manifest manifest;         // the layers; their errors may still change while they are made
  std::vector<formats::Tensor> kept;  // as they are
};

/// What stays must be what a safetensors file can hold; GGUF's blocks are not.
Status check_kept(const formats::Checkpoint& checkpoint, const Rewrite& rewrite);

/// Writes it, all or nothing, layer by layer as make(index into the manifest's layers) gives them, with progress under
/// the heading `what`. Errors: an output that is part of the input, what make returns, what the file system says.
Status write_checkpoint(const formats::Checkpoint& checkpoint, const std::string& output, const std::string& what,
                        Rewrite& rewrite, const std::function<Result<reference::QuantizedTensor>(std::size_t)>& make);

}  // namespace machete::tools
