#include "formats/layer_tensors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>

namespace machete::formats {

Result<const Tensor*> LayerTensors::matrix(const char* suffix, std::initializer_list<std::string_view> dtypes) const {
  const Tensor* tensor = optional(suffix);
  if (tensor == nullptr) return corrupt(suffix, "is missing");
  if (Status status = dtype_is(suffix, *tensor, dtypes); !status.ok()) return status;
  if (tensor->shape.size() != 2 || tensor->shape[0] < 1 || tensor->shape[1] < 1) {
    return corrupt(suffix, fmt::format("has shape {}; it must be a matrix", to_string(tensor->shape)));
  }
  return tensor;
}

Status LayerTensors::shape_is(const char* suffix, const Tensor& tensor, const std::vector<std::int64_t>& shape) const {
  if (tensor.shape == shape) return {};
  return corrupt(suffix, fmt::format("has shape {}; by the other tensors of its layer it must be {}",
                                     to_string(tensor.shape), to_string(shape)));
}

Status LayerTensors::dtype_is(const char* suffix, const Tensor& tensor,
                              std::initializer_list<std::string_view> dtypes) const {
  if (std::find(dtypes.begin(), dtypes.end(), tensor.dtype) != dtypes.end()) return {};
  return corrupt(suffix, fmt::format("is {}; it must be {}", tensor.dtype, fmt::join(dtypes, " or ")));
}

Status LayerTensors::corrupt(const char* suffix, const std::string& rule) const {
  return {StatusCode::kCorrupt, fmt::format("{}: tensor {} {}", checkpoint_.path(), quote(name_ + suffix), rule)};
}

std::string without_suffix(const std::string& name, std::string_view suffix) {
  if (name.size() <= suffix.size() || name.compare(name.size() - suffix.size(), suffix.size(), suffix) != 0) return "";
  return name.substr(0, name.size() - suffix.size());
}

std::uint32_t word_at(const Tensor& tensor, std::int64_t index) {
  std::uint32_t word = 0;
  std::memcpy(&word, static_cast<const std::uint8_t*>(tensor.data) + index * 4, 4);
  return word;
}

bool has_type(int bits, ForeignLayer& layer) {
  layer.bits = bits;
  if (bits == 4 || bits == 8) return true;
  layer.obstacle = fmt::format("{}-bit weights; Machete has types of 4 and 8 bits", bits);
  return false;
}

Status find_group_size(const LayerTensors& tensors, const char* g_idx_suffix, std::int64_t groups,
                       ForeignLayer& layer) {
  const Tensor* g_idx = tensors.optional(g_idx_suffix);
  if (groups == 1) {
    layer.group_size = -1;
  } else if (g_idx == nullptr) {
    if (layer.k % groups != 0) {
      layer.obstacle = fmt::format("K={} in {} groups gives no whole group size", layer.k, groups);
      return {};
    }
    layer.group_size = layer.k / groups;
  }
  if (g_idx != nullptr) {
    if (Status status = tensors.dtype_is(g_idx_suffix, *g_idx, {"I32"}); !status.ok()) return status;
    if (Status status = tensors.shape_is(g_idx_suffix, *g_idx, {layer.k}); !status.ok()) return status;
    const std::vector<std::int32_t> order = read_g_idx(*g_idx);
    const std::optional<std::int64_t> size = group_size_of(order, groups);
    if (!size) {
      layer.obstacle =
          fmt::format("groups of different sizes, by its {}; all but the last must have one size", g_idx_suffix + 1);
      return {};
    }
    layer.act_order = !std::is_sorted(order.begin(), order.end());
    if (groups > 1) layer.group_size = *size;
  }
  if (layer.group_size > 0 && layer.group_size % 16 != 0) {
    layer.obstacle = fmt::format("groups of {}; they must be multiples of 16", layer.group_size);
  }
  return {};
}

std::vector<std::int32_t> read_order(const LayerTensors& tensors, const char* g_idx_suffix, const ForeignLayer& layer) {
  return layer.act_order ? read_g_idx(tensors.at(g_idx_suffix)) : std::vector<std::int32_t>();
}

void find_type(const std::vector<std::uint8_t>& zeros, ForeignLayer& layer) {
  const auto middle = static_cast<std::uint8_t>(1 << (layer.bits - 1));
  const bool symmetric =
      std::all_of(zeros.begin(), zeros.end(), [middle](std::uint8_t zero) { return zero == middle; });
  if (layer.bits == 4) {
    layer.type = symmetric ? WeightType::kU4b8 : WeightType::kU4;
  } else {
    layer.type = symmetric ? WeightType::kU8b128 : WeightType::kU8;
  }
}

}  // namespace machete::formats
