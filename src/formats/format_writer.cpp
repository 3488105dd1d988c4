#include "formats/format_writer.h"

#include <fmt/format.h>

namespace machete::formats {

Status unwritable(std::string_view format, const QuantizedLayer& layer, const std::string& why) {
  return {StatusCode::kUnsupported, fmt::format("layer {}: {} cannot hold {}", quote(layer.name), format, why)};
}

Status check_integer_zeros(std::string_view format, const QuantizedLayer& layer) {
  if (!has_zero_points(layer.type) || layer.zero_point_type == DataType::kU8) return {};
  return unwritable(format, layer, "floating-point zero points; quantise the original instead");
}

}  // namespace machete::formats
