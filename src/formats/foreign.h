#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/manifest.h"
#include "machete/status.h"
#include "reference/quantize.h"

namespace machete::formats {

struct Format;

/// One layer of another tool's checkpoint, as the layer of ours that it becomes: with zero points where one differs
/// from the middle (8 or 128), its source_dtype the name of the format.
struct ForeignLayer : QuantizedLayer {
  const Format* format = nullptr;
  std::string stem;          // what the names of its tensors begin with; the name but for one of several experts
  std::int64_t experts = 1;  // layers of this size that the tensors hold, NAME.0, NAME.1, ... where more than one ...
  std::int64_t expert = 0;   // ... and which of them this is
  int bits = 0;
  std::vector<std::string> parts;  // the tensors it consists of, its bias left out
  std::string obstacle;            // why it cannot be read as one of our types; empty if it can
  std::string note;                // what the configuration says otherwise than the tensors; empty if it agrees
};

/// How another tool lays out quantised layers. A format is a file that defines one, and a line in
/// format_list.h.
struct Format {
  std::string_view name;

  /// The name of the layer that `tensor` holds the weights of; empty if it holds none of this format. Decided by names,
  /// dtypes and shapes, and by the configuration where these do not tell.
  std::string (*recognise)(const Checkpoint& checkpoint, const Tensor& tensor);

  /// The layer without its elements, the first of several experts. What contradicts itself is an error that names the
  /// tensor; what we have no type for is an obstacle.
  Result<ForeignLayer> (*describe)(const Checkpoint& checkpoint, const Tensor& tensor, const std::string& layer);

  /// The layer in canonical form; the layer has no obstacle. Null for formats whose layers all have one.
  reference::QuantizedTensor (*read)(const Checkpoint& checkpoint, const ForeignLayer& layer);
};

/// The layers that other tools have quantised, in the order of the checkpoint. Errors name the tensor that contradicts
/// the others.
Result<std::vector<ForeignLayer>> find_foreign_layers(const Checkpoint& checkpoint);

/// The layer in canonical form; what its page in docs/formats says, bit for bit. The layer has no
/// obstacle. Errors: scales or zero points that are not finite.
Result<reference::QuantizedTensor> read_foreign_layer(const Checkpoint& checkpoint, const ForeignLayer& layer);

}  // namespace machete::formats
