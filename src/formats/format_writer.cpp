#include "formats/format_writer.h"

#include <fmt/format.h>

#include "kernels/convert/coding.h"

namespace machete::formats {

Status unwritable(std::string_view format, const QuantizedLayer& layer, const std::string& why) {
  return {StatusCode::kUnsupported, fmt::format("layer {}: {} cannot hold {}", quote(layer.name), format, why)};
}

Status check_integers(std::string_view format, const QuantizedLayer& layer) {
  if (!convert::coding_of(layer.type).is_integer()) {
    return unwritable(format, layer, fmt::format("weights of {}; leave it in our format", name_of(layer.type)));
  }
  if (layer.tensor_scale != 1) return unwritable(format, layer, "a tensor scale; leave it in our format");
  if (!has_zero_points(layer.type) || layer.zero_point_type == DataType::kU8) return {};
  return unwritable(format, layer, "floating-point zero points; quantise the original instead");
}

}  // namespace machete::formats
