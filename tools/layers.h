#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/manifest.h"
#include "machete/status.h"
#include "machete/weight.h"

namespace machete::tools {

/// Which tensors of a checkpoint are weights of linear layers that shall be quantised.
struct LayerFilter {
  std::vector<std::string> only;  // globs; if there are any, they decide instead of kNotLinear
  std::vector<std::string> skip;  // globs; taken out of what would be chosen
};

/// What the help says about the choice.
extern const char* const kLayerRule;

/// The chosen tensors, in the order of the checkpoint. Errors: a glob that matches nothing.
Result<std::vector<formats::Tensor>> find_layers(const formats::Checkpoint& checkpoint, const LayerFilter& filter);

/// "a.b" for the tensor "a.b.weight".
std::string layer_name(const std::string& tensor);

/// What quantisation loses: the squared Frobenius norms of W - quantised W and of W. Independent of the number of
/// threads.
struct QuantizationError {
  double error = 0;
  double weight = 0;

  double relative() const;
  QuantizationError& operator+=(const QuantizationError& other);
};
QuantizationError quantization_error(const float* weight /* [N, K] */, const QuantizedWeight& quantized);

}  // namespace machete::tools
