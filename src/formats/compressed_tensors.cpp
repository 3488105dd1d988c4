#include "formats/compressed_tensors.h"

#include <fmt/format.h>

#include <cstring>

namespace machete::formats {
namespace {

/// Where element (n, group) of a tensor [N, groups], [N] or [1] lies.
std::int64_t row_index(const Tensor& tensor, std::int64_t groups, std::int64_t n, std::int64_t group) {
  const auto count = static_cast<std::int64_t>(tensor.bytes) * 8 / bits_of_dtype(tensor.dtype);
  return count == 1 ? 0 : n * groups + group;
}

}  // namespace

Result<std::int64_t> find_row_scales(const LayerTensors& tensors, ForeignLayer& layer) {
  const Tensor* scales = tensors.optional(kWeightScale);
  if (scales == nullptr) return tensors.corrupt(kWeightScale, "is missing");
  if (Status s = tensors.dtype_is(kWeightScale, *scales, {"F16", "BF16", "F32"}); !s.ok()) return s;
  layer.scale_type = *data_type_of(scales->dtype);
  if (scales->bytes == bytes_of(layer.scale_type)) return std::int64_t{1};
  if (scales->shape == std::vector<std::int64_t>{layer.n}) return std::int64_t{1};
  const std::int64_t groups = scales->shape.size() == 2 ? scales->shape[1] : 0;
  if (groups < 1) {
    return tensors.corrupt(
        kWeightScale, fmt::format("has shape {}; it must be [N, groups], [N] or one number", to_string(scales->shape)));
  }
  if (Status s = tensors.shape_is(kWeightScale, *scales, {layer.n, groups}); !s.ok()) return s;
  return groups;
}

std::vector<std::uint8_t> read_row_scales(const LayerTensors& tensors, const ForeignLayer& layer) {
  const Tensor& scales = tensors.at(kWeightScale);
  const std::size_t bytes = bytes_of(layer.scale_type);
  const std::int64_t groups = layer.groups();
  std::vector<std::uint8_t> result(static_cast<std::size_t>(layer.n * groups) * bytes);
  const auto* from = static_cast<const std::uint8_t*>(scales.data);
  for (std::int64_t n = 0; n < layer.n; ++n) {
    for (std::int64_t group = 0; group < groups; ++group) {
      const auto source = static_cast<std::size_t>(row_index(scales, groups, n, group));
      std::memcpy(result.data() + static_cast<std::size_t>(group * layer.n + n) * bytes, from + source * bytes, bytes);
    }
  }
  return result;
}

std::vector<std::uint8_t> read_row_zeros(const LayerTensors& tensors, const ForeignLayer& layer) {
  const Tensor& zeros = tensors.at(kWeightZeroPoint);
  const std::int64_t groups = layer.groups();
  std::vector<std::uint8_t> result(static_cast<std::size_t>(layer.n * groups));
  const auto* from = static_cast<const std::int8_t*>(zeros.data);
  const int middle = 1 << (layer.bits - 1);
  for (std::int64_t n = 0; n < layer.n; ++n) {
    for (std::int64_t group = 0; group < groups; ++group) {
      const int zero = from[row_index(zeros, groups, n, group)] + middle;
      if (zero < 0 || zero >= 2 * middle) return {};
      result[static_cast<std::size_t>(group * layer.n + n)] = static_cast<std::uint8_t>(zero);
    }
  }
  return result;
}

}  // namespace machete::formats
