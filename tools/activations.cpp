#include "activations.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>

#include "machete/linear.h"
#include "reference/numeric.h"

namespace machete::tools {
namespace {

/// A size that has kernels wherever this one has.
std::int64_t representative(std::int64_t group_size) {
  for (const std::int64_t size : {128, 64, 32, 16}) {
    if (group_size > 0 && group_size % size == 0) return size;
  }
  return group_size;
}

bool serves(const KernelInfo& kernel, const formats::QuantizedLayer& layer) {
  if (kernel.w_type != layer.type) return false;
  const std::int64_t size = representative(layer.group_size);
  return std::find(kernel.group_sizes.begin(), kernel.group_sizes.end(), size) != kernel.group_sizes.end();
}

bool holds(DataType type, float value) {
  std::uint16_t kept = 0;
  reference::from_float(type, &kept, 0, value);
  return reference::to_float(type, &kept, 0) == value;
}

bool holds_all(DataType type, const formats::Tensor& scales, DataType scale_type) {
  if (formats::is_floating(scales.dtype)) {
    const Result<std::vector<float>> values = formats::to_floats(scales);
    return values.ok() && std::all_of(values->begin(), values->end(), [type](float x) { return holds(type, x); });
  }
  for (std::size_t i = 0; i < scales.bytes; ++i) {  // e4m3, e8m0: a byte each
    if (!holds(type, reference::to_float(scale_type, scales.data, static_cast<std::int64_t>(i)))) return false;
  }
  return true;
}

/// Whether a layer's scales and zero points have exact values of the type.
bool is_exact_in(DataType type, const formats::Checkpoint& checkpoint, const formats::QuantizedLayer& layer,
                 const std::vector<std::string>& parts) {
  if (has_zero_points(layer.type) && layer.zero_point_type != DataType::kU8 && layer.zero_point_type != type) {
    return false;
  }
  for (const std::string& part : parts) {
    if (part.find("scale") == std::string::npos || part.find("global") != std::string::npos) continue;
    const formats::Tensor* scales = checkpoint.find(part);
    if (scales != nullptr) return holds_all(type, *scales, layer.scale_type);
  }
  return layer.scale_type == type;  // they lie among the codes
}

}  // namespace

std::vector<Activations> activations_of(const formats::Checkpoint& checkpoint, const formats::QuantizedLayer& layer,
                                        const std::vector<std::string>& parts) {
  const bool exact_in_bf16 = is_exact_in(DataType::kBf16, checkpoint, layer, parts);
  const bool exact_in_f16 = is_exact_in(DataType::kF16, checkpoint, layer, parts);
  std::vector<Activations> result;
  for (const KernelInfo& kernel : list_kernels()) {
    if (!serves(kernel, layer)) continue;
    const bool exact = kernel.scale_type == DataType::kF16 ? exact_in_f16 : exact_in_bf16;
    const auto known = std::find_if(result.begin(), result.end(), [&](const Activations& each) {
      return each.backend == kernel.backend && each.type == kernel.a_type;
    });
    if (known == result.end()) {
      result.push_back({kernel.backend, kernel.a_type, !exact});
    } else {
      known->rounds_scales = known->rounds_scales && !exact;
    }
  }
  return result;
}

std::string to_string(const std::vector<Activations>& activations) {
  std::string text;
  for (std::size_t i = 0; i < activations.size(); ++i) {
    const Activations& each = activations[i];
    const bool first = i == 0 || activations[i - 1].backend != each.backend;
    if (first) text += fmt::format("{}{}: ", i == 0 ? "" : "; ", name_of(each.backend));
    text += fmt::format("{}{}{}", first ? "" : ", ", name_of(each.type), each.rounds_scales ? "*" : "");
  }
  return text;
}

}  // namespace machete::tools
