// GPTQ's tensors are described in gptq.cpp.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "formats/format_writer.h"
#include "formats/layer_tensors.h"
#include "kernels/convert/coding.h"
#include "reference/dequantize.h"

namespace machete::formats {
namespace {

constexpr const char* kNames[] = {"gptq", "gptq_v2"};  // by whether it is version 2

template <bool kV2>
Result<std::vector<TensorInfo>> tensors(const QuantizedLayer& layer) {
  const std::string_view format = kNames[kV2];
  if (Status s = check_integers(format, layer); !s.ok()) return s;
  const std::int64_t share = per_word(bits_of(layer.type));
  if (layer.n % share != 0 || layer.k % share != 0) {
    return unwritable(format, layer,
                      fmt::format("N={} and K={}, which must be multiples of {}; leave the layer out, or write "
                                  "pack-quantized",
                                  layer.n, layer.k, share));
  }
  return std::vector<TensorInfo>{
      {layer.name + ".qweight", "I32", {layer.k / share, layer.n}},
      {layer.name + ".qzeros", "I32", {layer.groups(), layer.n / share}},
      {layer.name + ".scales", std::string(dtype_of(layer.scale_type)), {layer.groups(), layer.n}},
      {layer.name + ".g_idx", "I32", {layer.k}}};
}

template <bool kV2>
Result<std::vector<std::vector<std::uint8_t>>> pack(const QuantizedLayer& layer,
                                                    const reference::QuantizedTensor& weight) {
  const QuantizedWeight view = weight.view();
  const reference::WeightReader reader(view);
  const int bits = bits_of(layer.type);
  const std::int64_t share = per_word(bits);
  WordPacker qweight(layer.k / share * layer.n, bits);
  for (std::int64_t n = 0; n < layer.n; ++n) {
    for (std::int64_t k = 0; k < layer.k; ++k) {
      qweight.put(k / share * layer.n + n, k % share, static_cast<unsigned>(reader.code(n, k)));
    }
  }
  WordPacker qzeros(layer.groups() * layer.n / share, bits);
  for (std::int64_t group = 0; group < layer.groups(); ++group) {
    for (std::int64_t n = 0; n < layer.n; ++n) {
      const int zero = static_cast<int>(reader.zero(group, n));
      const int stored = kV2 ? zero : zero - 1;
      if (stored < 0 || stored >= 1 << bits) {
        return unwritable(kNames[kV2], layer,
                          fmt::format("the zero point {} of row {}, group {}; write {}", zero, n, group, kNames[!kV2]));
      }
      qzeros.put((group * layer.n + n) / share, n % share, static_cast<unsigned>(stored));
    }
  }
  const std::int64_t group_size = layer.group_size > 0 ? layer.group_size : layer.k;
  std::vector<std::uint8_t> indices(static_cast<std::size_t>(layer.k) * 4);
  for (std::int64_t k = 0; k < layer.k; ++k) {
    const auto in_order = static_cast<std::int32_t>(k / group_size);
    const std::int32_t group = weight.g_idx.empty() ? in_order : weight.g_idx[static_cast<std::size_t>(k)];
    std::memcpy(indices.data() + k * 4, &group, 4);
  }
  return std::vector<std::vector<std::uint8_t>>{qweight.take(), qzeros.take(), weight.scales, std::move(indices)};
}

template <bool kV2>
Result<std::string> config(const std::vector<QuantizedLayer>& layers, const std::vector<std::string>& /*ignored*/) {
  const QuantizedLayer& first = layers.front();
  for (const QuantizedLayer& layer : layers) {
    if (bits_of(layer.type) == bits_of(first.type) && layer.group_size == first.group_size) continue;
    return unwritable(
        kNames[kV2], layer,
        fmt::format("{} bits in groups of {} beside {} bits in groups of {}, as layer {} has; write "
                    "pack-quantized",
                    bits_of(layer.type), layer.group_size, bits_of(first.type), first.group_size, quote(first.name)));
  }
  const bool symmetric =
      std::none_of(layers.begin(), layers.end(), [](const auto& l) { return has_zero_points(l.type); });
  const bool act_order = std::any_of(layers.begin(), layers.end(), [](const auto& l) { return l.act_order; });
  return nlohmann::ordered_json{{"quant_method", "gptq"},
                                {"bits", bits_of(first.type)},
                                {"group_size", first.group_size},
                                {"desc_act", act_order},
                                {"sym", symmetric},
                                {"checkpoint_format", kNames[kV2]}}
      .dump();
}

}  // namespace

const FormatWriter kGptqWriter = {kNames[false], tensors<false>, pack<false>, config<false>};
const FormatWriter kGptqV2Writer = {kNames[true], tensors<true>, pack<true>, config<true>};

}  // namespace machete::formats
