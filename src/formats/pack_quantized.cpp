// compressed-tensors' pack-quantized: NAME.weight_packed [N, K/8], codes of a row in int32, the first in the lowest
// bits (or K/4 of 8 bits), offset to be unsigned; NAME.weight_scale [N, groups]; NAME.weight_shape, which holds N and
// K; and perhaps NAME.weight_zero_point, [N/8, groups] packed along N likewise, or [N, groups] of int8.
#include <fmt/format.h>

#include <cstring>

#include "formats/compressed_tensors.h"
#include "formats/format_list.h"

namespace machete::formats {
namespace {

constexpr const char* kPacked = ".weight_packed";
constexpr const char* kShape = ".weight_shape";

std::string recognise(const Checkpoint& /*checkpoint*/, const Tensor& tensor) {
  return tensor.dtype == "I32" ? without_suffix(tensor.name, kPacked) : "";
}

Status find_shape(const LayerTensors& tensors, ForeignLayer& layer) {
  const Tensor* shape = tensors.optional(kShape);
  if (shape == nullptr) return tensors.corrupt(kShape, "is missing");
  if (Status s = tensors.dtype_is(kShape, *shape, {"I64", "I32"}); !s.ok()) return s;
  if (shape->shape != std::vector<std::int64_t>{2}) {
    return tensors.corrupt(kShape, fmt::format("has shape {}; it must be [2]", to_string(shape->shape)));
  }
  const int words = shape->dtype == "I64" ? 2 : 1;
  layer.n = word_at(*shape, 0);
  layer.k = word_at(*shape, words);
  const bool sane = layer.n >= 1 && layer.k >= 1 && layer.n < (std::int64_t{1} << 31) &&
                    layer.k < (std::int64_t{1} << 31) &&
                    (words == 1 || (word_at(*shape, 1) == 0 && word_at(*shape, 3) == 0));
  return sane ? Status() : tensors.corrupt(kShape, "must hold N and K, both from 1 to 2^31");
}

/// The bits that K codes of a row have, in so many words. 0: none, or of both our widths.
int bits_of_row(std::int64_t k, std::int64_t words) {
  const auto fits = [&](int bits) { return (k * bits + 31) / 32 == words; };
  if (fits(4) != fits(8)) return fits(4) ? 4 : 8;
  if (fits(4)) return 0;
  for (int bits = 1; bits < 8; ++bits) {
    if (fits(bits)) return bits;
  }
  return 0;
}

/// [groups, N] counted from the lowest code; nothing if one of them is outside of the type.
std::vector<std::uint8_t> read_zeros(const LayerTensors& tensors, const ForeignLayer& layer) {
  const Tensor& zeros = tensors.at(kWeightZeroPoint);
  if (zeros.dtype == "I8") return read_row_zeros(tensors, layer);
  std::vector<std::uint8_t> result(static_cast<std::size_t>(layer.groups() * layer.n));
  for (std::int64_t group = 0; group < layer.groups(); ++group) {
    for (std::int64_t n = 0; n < layer.n; ++n) {
      const std::uint32_t word = word_at(zeros, n / per_word(layer.bits) * layer.groups() + group);
      result[static_cast<std::size_t>(group * layer.n + n)] = element(word, layer.bits, n % per_word(layer.bits));
    }
  }
  return result;
}

Status find_zeros(const LayerTensors& tensors, std::int64_t groups, ForeignLayer& layer) {
  const Tensor* zeros = tensors.optional(kWeightZeroPoint);
  if (zeros == nullptr) {
    find_type({}, layer);
    return {};
  }
  if (Status s = tensors.dtype_is(kWeightZeroPoint, *zeros, {"I32", "I8"}); !s.ok()) return s;
  const std::vector<std::int64_t> packed = {words_of(layer.n, layer.bits), groups};
  const std::vector<std::int64_t>& shape = zeros->dtype == "I8" ? tensors.at(kWeightScale).shape : packed;
  if (Status s = tensors.shape_is(kWeightZeroPoint, *zeros, shape); !s.ok()) return s;
  const std::vector<std::uint8_t> values = read_zeros(tensors, layer);
  if (values.empty()) layer.obstacle = fmt::format("a zero point that {} bits do not hold", layer.bits);
  find_type(values, layer);
  return {};
}

Result<ForeignLayer> describe(const Checkpoint& checkpoint, const Tensor& /*packed*/, const std::string& name) {
  const LayerTensors tensors(checkpoint, name);
  const auto packed = tensors.matrix(kPacked, {"I32"});
  if (!packed.ok()) return packed.status();
  ForeignLayer layer;
  if (Status s = find_shape(tensors, layer); !s.ok()) return s;
  layer.parts = {name + kPacked, name + kWeightScale, name + kShape};
  for (const char* suffix : {kWeightZeroPoint, kWeightGIdx}) {
    if (tensors.optional(suffix) != nullptr) layer.parts.push_back(name + suffix);
  }
  const std::int64_t words = (*packed)->shape[1];
  if ((*packed)->shape[0] != layer.n || words > words_of(layer.k, 8)) {
    return tensors.corrupt(kPacked, fmt::format("has shape {}, which N={} and K={} do not give",
                                                to_string((*packed)->shape), layer.n, layer.k));
  }
  const Result<std::int64_t> groups = find_row_scales(tensors, layer);
  if (!groups.ok()) return groups.status();
  const int bits = bits_of_row(layer.k, words);
  if (bits == 0) {
    layer.obstacle = fmt::format("K={} in {} words does not tell how many bits a code has", layer.k, words);
    return layer;
  }
  if (!has_type(bits, layer)) return layer;
  if (Status s = find_group_size(tensors, kWeightGIdx, *groups, layer); !s.ok()) return s;
  if (!layer.obstacle.empty()) return layer;
  if (Status s = find_zeros(tensors, *groups, layer); !s.ok()) return s;
  return layer;
}

reference::QuantizedTensor read(const Checkpoint& checkpoint, const ForeignLayer& layer) {
  const LayerTensors tensors(checkpoint, layer.stem);
  reference::QuantizedTensor weight = layer.weight();
  const std::int64_t row_bytes = weight.view().row_bytes();
  weight.qweight.resize(static_cast<std::size_t>(layer.n * row_bytes));
  const Tensor& packed = tensors.at(kPacked);
  const auto* from = static_cast<const std::uint8_t*>(packed.data);
  for (std::int64_t n = 0; n < layer.n; ++n) {
    std::uint8_t* row = weight.qweight.data() + n * row_bytes;
    std::memcpy(row, from + n * packed.shape[1] * 4, static_cast<std::size_t>(row_bytes));
    if (layer.k * layer.bits % 8 != 0) row[row_bytes - 1] &= 15;  // what pads the last byte
  }
  weight.scales = read_row_scales(tensors, layer);
  weight.g_idx = read_order(tensors, kWeightGIdx, layer);
  if (has_zero_points(layer.type)) weight.zero_points = read_zeros(tensors, layer);
  return weight;
}

}  // namespace

const Format kPackQuantized = {"pack-quantized", recognise, describe, read};

}  // namespace machete::formats
