// GPTQ: NAME.qweight [K/8, N], eight 4-bit codes of a column an int32 (or four of 8 bits), NAME.scales [groups, N],
// NAME.qzeros [groups, N/8] packed along N, and perhaps NAME.g_idx [K]. Version 1 stores zero points less 1.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "formats/format_list.h"
#include "formats/layer_tensors.h"

namespace machete::formats {
namespace {

constexpr const char* kV2Name = "gptq_v2";

/// Version 1 unless config.json says otherwise; the tensors do not tell.
bool is_v2(const Checkpoint& checkpoint) {
  return checkpoint.config().ok() && checkpoint.config()->checkpoint_format == kV2Name;
}

std::string recognise(const Checkpoint& checkpoint, const Tensor& tensor, bool v2) {
  if (tensor.dtype != "I32" || is_v2(checkpoint) != v2) return "";
  return without_suffix(tensor.name, ".qweight");
}

int stored_less_by(const Checkpoint& checkpoint) { return is_v2(checkpoint) ? 0 : 1; }

/// [groups, N], as they are meant. Nothing if one of them exceeds a byte.
std::vector<std::uint8_t> read_zeros(const Tensor& qzeros, const ForeignLayer& layer, int less) {
  std::vector<std::uint8_t> zeros(static_cast<std::size_t>(layer.groups() * layer.n));
  const std::int64_t words = qzeros.shape[1];
  for (std::int64_t group = 0; group < layer.groups(); ++group) {
    for (std::int64_t n = 0; n < layer.n; ++n) {
      const std::uint32_t word = word_at(qzeros, group * words + n / per_word(layer.bits));
      const int zero = element(word, layer.bits, n % per_word(layer.bits)) + less;
      if (zero > 255) return {};
      zeros[static_cast<std::size_t>(group * layer.n + n)] = static_cast<std::uint8_t>(zero);
    }
  }
  return zeros;
}

Result<ForeignLayer> describe(const Checkpoint& checkpoint, const Tensor& /*qweight*/, const std::string& name) {
  if (!checkpoint.config().ok()) return checkpoint.config().status();
  const LayerTensors tensors(checkpoint, name);
  const auto qweight = tensors.matrix(".qweight", {"I32"});
  if (!qweight.ok()) return qweight.status();
  const auto scales = tensors.matrix(".scales", {"F16", "BF16", "F32"});
  if (!scales.ok()) return scales.status();
  const auto qzeros = tensors.matrix(".qzeros", {"I32"});
  if (!qzeros.ok()) return qzeros.status();

  ForeignLayer layer;
  const std::int64_t groups = (*scales)->shape[0];
  layer.n = (*scales)->shape[1];
  layer.scale_type = *data_type_of((*scales)->dtype);
  layer.parts = {name + ".qweight", name + ".scales", name + ".qzeros"};
  if (tensors.optional(".g_idx") != nullptr) layer.parts.push_back(name + ".g_idx");
  const std::int64_t zero_words = (*qzeros)->shape[1];
  if (zero_words > layer.n || zero_words * 32 % layer.n != 0) {
    return tensors.corrupt(".qzeros", fmt::format("has shape {}, which packs no whole number of bits for N={}",
                                                  to_string((*qzeros)->shape), layer.n));
  }
  const auto bits = static_cast<int>(zero_words * 32 / layer.n);
  layer.k = (*qweight)->shape[0] * 32 / bits;
  if (Status s = tensors.shape_is(".qzeros", **qzeros, {groups, zero_words}); !s.ok()) return s;
  if (Status s = tensors.shape_is(".qweight", **qweight, {(*qweight)->shape[0], layer.n}); !s.ok()) return s;
  if (!has_type(bits, layer)) return layer;
  if (Status s = find_group_size(tensors, ".g_idx", groups, layer); !s.ok()) return s;
  if (!layer.obstacle.empty()) return layer;
  const std::vector<std::uint8_t> zeros = read_zeros(**qzeros, layer, stored_less_by(checkpoint));
  if (zeros.empty()) layer.obstacle = "a zero point of 256, which no byte holds";
  find_type(zeros, layer);
  return layer;
}

reference::QuantizedTensor read(const Checkpoint& checkpoint, const ForeignLayer& layer) {
  const LayerTensors tensors(checkpoint, layer.stem);
  reference::QuantizedTensor weight = layer.weight();
  const std::int64_t row_bytes = weight.view().row_bytes();
  weight.qweight.resize(static_cast<std::size_t>(layer.n * row_bytes));
  const Tensor& qweight = tensors.at(".qweight");
  // The k's of a word are four bytes of a row as we have it. Some columns at a time, since each word would else come
  // from another line of the cache than the last.
  constexpr std::int64_t kColumns = 16;
#pragma omp parallel for schedule(static)
  for (std::int64_t first = 0; first < layer.n; first += kColumns) {
    for (std::int64_t row = 0; row < qweight.shape[0]; ++row) {
      for (std::int64_t n = first; n < std::min(first + kColumns, layer.n); ++n) {
        const std::uint32_t word = word_at(qweight, row * layer.n + n);
        std::memcpy(weight.qweight.data() + n * row_bytes + row * 4, &word, 4);
      }
    }
  }
  weight.scales = copy_bytes(tensors.at(".scales"));
  weight.g_idx = read_order(tensors, ".g_idx", layer);
  if (has_zero_points(layer.type)) {
    weight.zero_points = read_zeros(tensors.at(".qzeros"), layer, stored_less_by(checkpoint));
  }
  return weight;
}

}  // namespace

const Format kGptq = {
    "gptq", [](const Checkpoint& checkpoint, const Tensor& tensor) { return recognise(checkpoint, tensor, false); },
    describe, read};
const Format kGptqV2 = {
    kV2Name, [](const Checkpoint& checkpoint, const Tensor& tensor) { return recognise(checkpoint, tensor, true); },
    describe, read};

}  // namespace machete::formats
