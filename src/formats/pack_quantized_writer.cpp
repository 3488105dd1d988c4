// The tensors of compressed-tensors' pack-quantized are described in pack_quantized.cpp.
#include <fmt/format.h>

#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <tuple>

#include "formats/format_writer.h"
#include "formats/layer_tensors.h"
#include "reference/dequantize.h"

namespace machete::formats {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kName = "pack-quantized";

Result<std::vector<TensorInfo>> tensors(const QuantizedLayer& layer) {
  if (Status s = check_integers(kName, layer); !s.ok()) return s;
  if (layer.group_size > 0 && layer.k % layer.group_size != 0) {
    return unwritable(kName, layer,
                      fmt::format("groups of {} that do not divide K={}; write gptq, or choose another group "
                                  "size",
                                  layer.group_size, layer.k));
  }
  const int bits = bits_of(layer.type);
  if (layer.k <= 4) return unwritable(kName, layer, fmt::format("K={}, which does not tell 4 bits from 8", layer.k));
  std::vector<TensorInfo> result = {
      {layer.name + ".weight_packed", "I32", {layer.n, words_of(layer.k, bits)}},
      {layer.name + ".weight_scale", std::string(dtype_of(layer.scale_type)), {layer.n, layer.groups()}},
      {layer.name + ".weight_shape", "I64", {2}}};
  if (has_zero_points(layer.type)) {
    result.push_back({layer.name + ".weight_zero_point", "I32", {words_of(layer.n, bits), layer.groups()}});
  }
  if (layer.act_order) result.push_back({layer.name + ".weight_g_idx", "I32", {layer.k}});
  return result;
}

/// [groups, N] to [N, groups].
std::vector<std::uint8_t> by_row(const QuantizedLayer& layer, const std::vector<std::uint8_t>& scales) {
  const std::size_t bytes = bytes_of(layer.scale_type);
  std::vector<std::uint8_t> result(scales.size());
  for (std::int64_t n = 0; n < layer.n; ++n) {
    for (std::int64_t group = 0; group < layer.groups(); ++group) {
      std::memcpy(result.data() + static_cast<std::size_t>(n * layer.groups() + group) * bytes,
                  scales.data() + static_cast<std::size_t>(group * layer.n + n) * bytes, bytes);
    }
  }
  return result;
}

/// The parts, and the group of each k after them where it has an order of its own.
std::vector<std::vector<std::uint8_t>> with_order(std::vector<std::vector<std::uint8_t>> parts,
                                                  const reference::QuantizedTensor& weight) {
  if (weight.g_idx.empty()) return parts;
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(weight.g_idx.data());
  parts.emplace_back(bytes, bytes + weight.g_idx.size() * sizeof(std::int32_t));
  return parts;
}

Result<std::vector<std::vector<std::uint8_t>>> pack(const QuantizedLayer& layer,
                                                    const reference::QuantizedTensor& weight) {
  const QuantizedWeight view = weight.view();
  const reference::WeightReader reader(view);
  const int bits = bits_of(layer.type);
  const std::int64_t share = per_word(bits);
  const std::int64_t words = words_of(layer.k, bits);
  WordPacker packed(layer.n * words, bits);
  for (std::int64_t n = 0; n < layer.n; ++n) {
    for (std::int64_t k = 0; k < layer.k; ++k) {
      packed.put(n * words + k / share, k % share, static_cast<unsigned>(reader.code(n, k)));
    }
  }
  const std::int64_t shape[2] = {layer.n, layer.k};
  std::vector<std::uint8_t> shape_bytes(sizeof(shape));
  std::memcpy(shape_bytes.data(), shape, sizeof(shape));
  std::vector<std::vector<std::uint8_t>> result = {packed.take(), by_row(layer, weight.scales), std::move(shape_bytes)};
  if (!has_zero_points(layer.type)) return with_order(std::move(result), weight);
  WordPacker zeros(words_of(layer.n, bits) * layer.groups(), bits);
  for (std::int64_t group = 0; group < layer.groups(); ++group) {
    for (std::int64_t n = 0; n < layer.n; ++n) {
      const int zero = static_cast<int>(reader.zero(group, n));
      if (zero >= 1 << bits) {
        return unwritable(kName, layer,
                          fmt::format("the zero point {} of row {}, group {}; write gptq", zero, n, group));
      }
      zeros.put(n / share * layer.groups() + group, n % share, static_cast<unsigned>(zero));
    }
  }
  result.push_back(zeros.take());
  return with_order(std::move(result), weight);
}

/// One group of layers for each way of quantising; a single one is that of all linear layers.
Result<std::string> config(const std::vector<QuantizedLayer>& layers, const std::vector<std::string>& ignored) {
  std::map<std::tuple<int, bool, std::int64_t, bool>, std::vector<std::string>> schemes;
  for (const QuantizedLayer& layer : layers) {
    schemes[{bits_of(layer.type), !has_zero_points(layer.type), layer.group_size, layer.act_order}].push_back(
        layer.name);
  }
  Json groups = Json::object();
  for (const auto& [scheme, names] : schemes) {
    const auto& [bits, symmetric, group_size, act_order] = scheme;
    const bool channel = group_size < 0;
    groups[fmt::format("group_{}", groups.size())] = {
        {"targets", schemes.size() == 1 ? std::vector<std::string>{"Linear"} : names},
        {"weights",
         {{"num_bits", bits},
          {"type", "int"},
          {"symmetric", symmetric},
          {"strategy", channel ? "channel" : "group"},
          {"group_size", channel ? Json() : Json(group_size)},
          {"actorder", act_order ? Json("group") : Json()},
          {"dynamic", false}}}};
  }
  return Json{{"quant_method", "compressed-tensors"},
              {"format", kName},
              {"quantization_status", "compressed"},
              {"config_groups", groups},
              {"ignore", ignored}}
      .dump();
}

}  // namespace

const FormatWriter kPackQuantizedWriter = {kName, tensors, pack, config};

}  // namespace machete::formats
