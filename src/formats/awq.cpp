// AutoAWQ's GEMM order: NAME.qweight [K, N/8], eight 4-bit codes of a row an int32 in the order 0 2 4 6 1 3 5 7,
// NAME.qzeros [groups, N/8] likewise, NAME.scales [groups, N].
#include <fmt/format.h>

#include "formats/format_list.h"
#include "formats/layer_tensors.h"

namespace machete::formats {
namespace {

constexpr int kBits = 4;
constexpr int kOrder[per_word(kBits)] = {0, 2, 4, 6, 1, 3, 5, 7};

/// GPTQ's qweight has a column for each of the scales'; this one has fewer.
std::string recognise(const Checkpoint& checkpoint, const Tensor& tensor) {
  std::string name = without_suffix(tensor.name, ".qweight");
  if (name.empty() || tensor.dtype != "I32" || tensor.shape.size() != 2) return "";
  if (checkpoint.config().ok() && checkpoint.config()->method == "awq") return name;
  const Tensor* scales = checkpoint.find(name + ".scales");
  const bool packed_on_n = scales != nullptr && scales->shape.size() == 2 && scales->shape[1] != tensor.shape[1];
  return packed_on_n ? name : "";
}

/// Calls visit(row, n, element) for all elements of a tensor [rows, N/8].
template <class Visit>
void for_each_element(const Tensor& tensor, Visit visit) {
  const std::int64_t words = tensor.shape[1];
  for (std::int64_t row = 0; row < tensor.shape[0]; ++row) {
    for (std::int64_t w = 0; w < words; ++w) {
      const std::uint32_t word = word_at(tensor, row * words + w);
      for (std::int64_t i = 0; i < per_word(kBits); ++i) {
        visit(row, w * per_word(kBits) + kOrder[i], element(word, kBits, i));
      }
    }
  }
}

std::vector<std::uint8_t> read_zeros(const Tensor& qzeros, const ForeignLayer& layer) {
  std::vector<std::uint8_t> zeros(static_cast<std::size_t>(layer.groups() * layer.n));
  for_each_element(qzeros, [&](std::int64_t group, std::int64_t n, std::uint8_t zero) {
    zeros[static_cast<std::size_t>(group * layer.n + n)] = zero;
  });
  return zeros;
}

Result<ForeignLayer> describe(const Checkpoint& checkpoint, const Tensor& /*qweight*/, const std::string& name) {
  const LayerTensors tensors(checkpoint, name);
  const auto qweight = tensors.matrix(".qweight", {"I32"});
  if (!qweight.ok()) return qweight.status();
  const auto scales = tensors.matrix(".scales", {"F16", "BF16", "F32"});
  if (!scales.ok()) return scales.status();
  const auto qzeros = tensors.matrix(".qzeros", {"I32"});
  if (!qzeros.ok()) return qzeros.status();

  ForeignLayer layer;
  layer.bits = kBits;
  layer.scale_type = *data_type_of((*scales)->dtype);
  layer.parts = {name + ".qweight", name + ".scales", name + ".qzeros"};
  const std::string version = checkpoint.config().ok() ? checkpoint.config()->version : "";
  if (!version.empty() && version != "gemm") {
    layer.n = (*qweight)->shape[0];
    layer.k = (*qweight)->shape[1] * per_word(kBits);
    layer.obstacle = fmt::format("AWQ's version {}; only gemm's order is read", quote(version));
    return layer;
  }
  const std::int64_t groups = (*scales)->shape[0];
  layer.n = (*scales)->shape[1];
  layer.k = (*qweight)->shape[0];
  const std::int64_t words = words_of(layer.n, kBits);
  if (layer.n % per_word(kBits) != 0) {
    return tensors.corrupt(".scales", fmt::format("has shape {}; its columns must be a multiple of {}",
                                                  to_string((*scales)->shape), per_word(kBits)));
  }
  if (Status s = tensors.shape_is(".qweight", **qweight, {layer.k, words}); !s.ok()) return s;
  if (Status s = tensors.shape_is(".qzeros", **qzeros, {groups, words}); !s.ok()) return s;
  if (Status s = find_group_size(tensors, ".g_idx", groups, layer); !s.ok()) return s;
  if (layer.obstacle.empty()) find_type(read_zeros(**qzeros, layer), layer);
  return layer;
}

reference::QuantizedTensor read(const Checkpoint& checkpoint, const ForeignLayer& layer) {
  const LayerTensors tensors(checkpoint, layer.stem);
  reference::QuantizedTensor weight = layer.weight();
  const std::int64_t row_bytes = weight.view().row_bytes();
  weight.qweight.resize(static_cast<std::size_t>(layer.n * row_bytes));
  for_each_element(tensors.at(".qweight"), [&](std::int64_t k, std::int64_t n, std::uint8_t code) {
    std::uint8_t& byte = weight.qweight[static_cast<std::size_t>(n * row_bytes + k / 2)];
    byte = static_cast<std::uint8_t>(byte | code << (k % 2 * kBits));
  });
  weight.scales = copy_bytes(tensors.at(".scales"));
  weight.g_idx = read_order(tensors, ".g_idx", layer);
  if (has_zero_points(layer.type)) weight.zero_points = read_zeros(tensors.at(".qzeros"), layer);
  return weight;
}

}  // namespace

const Format kAwq = {"awq", recognise, describe, read};

}  // namespace machete::formats
