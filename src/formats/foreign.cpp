#include "formats/foreign.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

namespace machete::formats {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr std::int64_t kPerWord = 8;  // 4-bit elements of an int32
constexpr int kAwqOrder[kPerWord] = {0, 2, 4, 6, 1, 3, 5, 7};
constexpr std::uint8_t kMiddle = 8;  // the zero point that u4b8 implies
constexpr const char* kActOrder = "its groups follow an order of their own (act-order), which is not served yet";

bool ends_with(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

std::uint32_t word_at(const Tensor& tensor, std::int64_t index) {
  std::uint32_t word = 0;
  std::memcpy(&word, static_cast<const std::uint8_t*>(tensor.data) + index * 4, 4);
  return word;
}

std::uint8_t element(std::uint32_t word, std::int64_t i) { return static_cast<std::uint8_t>(word >> (4 * i) & 15u); }

/// Where the i-th element of a word belongs along N.
std::int64_t place_of(ForeignFormat format, std::int64_t i) { return format == ForeignFormat::kAwq ? kAwqOrder[i] : i; }

/// The tensors of one layer, looked up and described on the way.
class Reader {
 public:
  Reader(const Checkpoint& checkpoint, std::string name) : checkpoint_(checkpoint), name_(std::move(name)) {}

  const Tensor* optional(const char* suffix) const { return checkpoint_.find(name_ + suffix); }

  /// There, of one of the dtypes, with two dimensions.
  Result<const Tensor*> matrix(const char* suffix, std::initializer_list<std::string_view> dtypes) const {
    const Tensor* tensor = optional(suffix);
    if (tensor == nullptr) return corrupt(suffix, "is missing");
    if (std::find(dtypes.begin(), dtypes.end(), tensor->dtype) == dtypes.end()) {
      return corrupt(suffix, fmt::format("is {}; it must be {}", tensor->dtype, fmt::join(dtypes, " or ")));
    }
    if (tensor->shape.size() != 2 || tensor->shape[0] < 1 || tensor->shape[1] < 1) {
      return corrupt(suffix, fmt::format("has shape {}; it must be a matrix", to_string(tensor->shape)));
    }
    return tensor;
  }

  Status shape_is(const char* suffix, const Tensor& tensor, std::int64_t rows, std::int64_t columns) const {
    if (tensor.shape == std::vector<std::int64_t>{rows, columns}) return {};
    return corrupt(suffix, fmt::format("has shape {}; by the other tensors of its layer it must be {}",
                                       to_string(tensor.shape), to_string({rows, columns})));
  }

  Status corrupt(const char* suffix, const std::string& rule) const {
    return {StatusCode::kCorrupt, fmt::format("{}: tensor {} {}", checkpoint_.path(), quote(name_ + suffix), rule)};
  }

  const std::string& name() const { return name_; }

 private:
  const Checkpoint& checkpoint_;
  std::string name_;
};

/// Whether config.json says that zero points are stored as they are.
Result<bool> is_gptq_v2(const Checkpoint& checkpoint) {
  const fs::path folder = fs::path(checkpoint.path()).parent_path();
  for (const char* file : {"quantize_config.json", "config.json"}) {
    std::ifstream stream(folder / file);
    if (!stream) continue;
    try {
      const Json json = Json::parse(stream);
      const Json* config = &json;
      if (json.contains("quantization_config")) config = &json.at("quantization_config");
      if (config->contains("checkpoint_format")) {
        return config->at("checkpoint_format").get<std::string>() == "gptq_v2";
      }
    } catch (const Json::exception& error) {
      return Status(StatusCode::kCorrupt, fmt::format("{}: {}", (folder / file).string(), quote(error.what())));
    }
  }
  return false;
}

/// The size of groups that K falls into, of which there are `groups`. g_idx, where there is one, must name them in
/// order.
Status find_group_size(const Reader& reader, const Tensor* g_idx, std::int64_t groups, ForeignLayer& layer) {
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
    if (g_idx->dtype != "I32" || g_idx->shape != std::vector<std::int64_t>{layer.k}) {
      return reader.corrupt(".g_idx", fmt::format("is {} of shape {}; it must be I32 of shape [{}]", g_idx->dtype,
                                                  to_string(g_idx->shape), layer.k));
    }
    std::int64_t size = 0;
    while (size < layer.k && word_at(*g_idx, size) == 0) ++size;
    bool in_order = size > 0 && (layer.k + size - 1) / size == groups;
    for (std::int64_t k = 0; k < layer.k && in_order; ++k) in_order = word_at(*g_idx, k) == k / size;
    if (!in_order) {
      layer.obstacle = kActOrder;
      return {};
    }
    if (groups > 1) layer.group_size = size;
  }
  if (layer.group_size > 0 && layer.group_size % 16 != 0) {
    layer.obstacle = fmt::format("groups of {}; they must be multiples of 16", layer.group_size);
  }
  return {};
}

/// Zero points [groups, N], as they are meant; empty if one of them exceeds 4 bits.
std::vector<std::uint8_t> read_zeros(const Tensor& qzeros, const ForeignLayer& layer) {
  const std::int64_t groups = layer.groups();
  std::vector<std::uint8_t> zeros(static_cast<std::size_t>(groups * layer.n));
  const bool packed_on_rows = layer.format == ForeignFormat::kPackQuantized;  // [N/8, groups], else [groups, N/8]
  const std::int64_t words = (layer.n + kPerWord - 1) / kPerWord;
  for (std::int64_t group = 0; group < groups; ++group) {
    for (std::int64_t w = 0; w < words; ++w) {
      const std::uint32_t word = word_at(qzeros, packed_on_rows ? w * groups + group : group * words + w);
      for (std::int64_t i = 0; i < kPerWord; ++i) {
        const std::int64_t n = w * kPerWord + place_of(layer.format, i);
        if (n >= layer.n) continue;
        const int zero = element(word, i) + (layer.format == ForeignFormat::kGptq ? 1 : 0);
        if (zero > 15) return {};
        zeros[static_cast<std::size_t>(group * layer.n + n)] = static_cast<std::uint8_t>(zero);
      }
    }
  }
  return zeros;
}

const char* zeros_suffix(ForeignFormat format) {
  return format == ForeignFormat::kPackQuantized ? ".weight_zero_point" : ".qzeros";
}

void find_type(const Tensor* zeros, ForeignLayer& layer) {
  layer.type = WeightType::kU4b8;
  if (zeros == nullptr || !layer.obstacle.empty()) return;
  const std::vector<std::uint8_t> values = read_zeros(*zeros, layer);
  if (values.empty()) layer.obstacle = "a zero point of 16 does not fit into 4 bits";
  const bool symmetric = std::all_of(values.begin(), values.end(), [](std::uint8_t z) { return z == kMiddle; });
  if (!symmetric) layer.type = WeightType::kU4;
}

void find_scale_type(const Tensor& scales, ForeignLayer& layer) {
  const std::optional<DataType> type = data_type_of(scales.dtype);
  if (type == DataType::kF16 || type == DataType::kBf16) {
    layer.scale_type = *type;
  } else {
    layer.obstacle = fmt::format("scales of {}; they must be F16 or BF16", scales.dtype);
  }
}

/// GPTQ and AWQ: NAME.qweight, .qzeros, .scales and perhaps .g_idx.
Result<ForeignLayer> describe_gptq_or_awq(const Reader& reader, bool v2) {
  const auto qweight = reader.matrix(".qweight", {"I32"});
  if (!qweight.ok()) return qweight.status();
  const auto scales = reader.matrix(".scales", {"F16", "BF16", "F32"});
  if (!scales.ok()) return scales.status();
  const auto qzeros = reader.matrix(".qzeros", {"I32"});
  if (!qzeros.ok()) return qzeros.status();

  ForeignLayer layer;
  layer.name = reader.name();
  layer.n = (*scales)->shape[1];
  const std::int64_t groups = (*scales)->shape[0];
  const bool awq = (*qweight)->shape[1] != layer.n;
  layer.format = awq ? ForeignFormat::kAwq : v2 ? ForeignFormat::kGptqV2 : ForeignFormat::kGptq;
  const std::int64_t zero_columns = (*qzeros)->shape[1];
  if (zero_columns > layer.n || zero_columns * 32 % layer.n != 0) {
    return reader.corrupt(".qzeros", fmt::format("has shape {}, which packs no whole number of bits for N={}",
                                                 to_string((*qzeros)->shape), layer.n));
  }
  layer.bits = static_cast<int>(zero_columns * 32 / layer.n);
  layer.k = awq ? (*qweight)->shape[0] : (*qweight)->shape[0] * 32 / layer.bits;
  layer.parts = {layer.name + ".qweight", layer.name + ".scales", layer.name + ".qzeros"};
  const Tensor* g_idx = reader.optional(".g_idx");
  if (g_idx != nullptr) layer.parts.push_back(layer.name + ".g_idx");
  if (Status status = reader.shape_is(".qzeros", **qzeros, groups, zero_columns); !status.ok()) return status;
  if (awq) {
    if (Status status = reader.shape_is(".qweight", **qweight, layer.k, zero_columns); !status.ok()) return status;
  }
  if (layer.bits != 4) {
    layer.obstacle = fmt::format("{}-bit weights are not served yet", layer.bits);
    return layer;
  }
  find_scale_type(**scales, layer);
  if (Status status = find_group_size(reader, g_idx, groups, layer); !status.ok()) return status;
  find_type(*qzeros, layer);
  return layer;
}

/// compressed-tensors: NAME.weight_packed, .weight_scale, .weight_shape and perhaps .weight_zero_point, .weight_g_idx.
Result<ForeignLayer> describe_pack_quantized(const Reader& reader) {
  const auto packed = reader.matrix(".weight_packed", {"I32"});
  if (!packed.ok()) return packed.status();
  const auto scales = reader.matrix(".weight_scale", {"F16", "BF16", "F32"});
  if (!scales.ok()) return scales.status();
  const Tensor* shape = reader.optional(".weight_shape");
  if (shape == nullptr) return reader.corrupt(".weight_shape", "is missing");
  if (shape->shape != std::vector<std::int64_t>{2} || (shape->dtype != "I64" && shape->dtype != "I32")) {
    return reader.corrupt(".weight_shape", fmt::format("is {} of shape {}; it must be I64 or I32 of shape [2]",
                                                       shape->dtype, to_string(shape->shape)));
  }
  ForeignLayer layer;
  layer.name = reader.name();
  layer.format = ForeignFormat::kPackQuantized;
  const int words = shape->dtype == "I64" ? 2 : 1;
  layer.n = word_at(*shape, 0);
  layer.k = word_at(*shape, words);
  const bool sane = layer.n >= 1 && layer.k >= 1 && layer.n < (std::int64_t{1} << 31) &&
                    layer.k < (std::int64_t{1} << 31) &&
                    (words == 1 || (word_at(*shape, 1) == 0 && word_at(*shape, 3) == 0));
  if (!sane) return reader.corrupt(".weight_shape", "must hold N and K, both from 1 to 2^31");
  if ((*packed)->shape[0] != layer.n || (*packed)->shape[1] > layer.k) {
    return reader.corrupt(".weight_packed", fmt::format("has shape {}, which N={} and K={} do not give",
                                                        to_string((*packed)->shape), layer.n, layer.k));
  }
  layer.parts = {layer.name + ".weight_packed", layer.name + ".weight_scale", layer.name + ".weight_shape"};
  for (const char* suffix : {".weight_zero_point", ".weight_g_idx"}) {
    if (reader.optional(suffix) != nullptr) layer.parts.push_back(layer.name + suffix);
  }
  if ((*packed)->shape[1] != (layer.k + kPerWord - 1) / kPerWord) {
    layer.bits = static_cast<int>(((*packed)->shape[1] * 32) / layer.k);
    layer.obstacle = fmt::format("{}-bit weights are not served yet", layer.bits);
    return layer;
  }
  layer.bits = 4;
  const std::int64_t groups = (*scales)->shape[1];
  if (Status status = reader.shape_is(".weight_scale", **scales, layer.n, groups); !status.ok()) return status;
  find_scale_type(**scales, layer);
  if (reader.optional(".weight_g_idx") != nullptr) {
    layer.obstacle = kActOrder;
    return layer;
  }
  if (Status status = find_group_size(reader, nullptr, groups, layer); !status.ok()) return status;
  const Tensor* zeros = reader.optional(".weight_zero_point");
  if (zeros != nullptr) {
    if (zeros->dtype != "I32") return reader.corrupt(".weight_zero_point", "must be I32");
    const Status status = reader.shape_is(".weight_zero_point", *zeros, (layer.n + kPerWord - 1) / kPerWord, groups);
    if (!status.ok()) return status;
  }
  find_type(zeros, layer);
  return layer;
}

/// [N, groups] to [groups, N], two bytes each.
std::vector<std::uint8_t> transpose_scales(const Tensor& scales, std::int64_t n, std::int64_t groups) {
  std::vector<std::uint8_t> result(static_cast<std::size_t>(n * groups * 2));
  const auto* from = static_cast<const std::uint8_t*>(scales.data);
  for (std::int64_t row = 0; row < n; ++row) {
    for (std::int64_t group = 0; group < groups; ++group) {
      std::memcpy(result.data() + (group * n + row) * 2, from + (row * groups + group) * 2, 2);
    }
  }
  return result;
}

}  // namespace

std::string_view name_of(ForeignFormat format) {
  switch (format) {
    case ForeignFormat::kGptq:
      return "gptq";
    case ForeignFormat::kGptqV2:
      return "gptq_v2";
    case ForeignFormat::kAwq:
      return "awq";
    case ForeignFormat::kPackQuantized:
      return "pack-quantized";
  }
  return "?";
}

Result<std::vector<ForeignLayer>> find_foreign_layers(const Checkpoint& checkpoint) {
  std::vector<ForeignLayer> layers;
  std::optional<bool> v2;
  for (const Tensor& tensor : checkpoint.tensors()) {
    constexpr std::string_view kQweight = ".qweight";
    constexpr std::string_view kPacked = ".weight_packed";
    std::optional<Result<ForeignLayer>> layer;
    if (ends_with(tensor.name, kQweight) && tensor.dtype == "I32") {
      if (!v2.has_value()) {
        const Result<bool> found = is_gptq_v2(checkpoint);
        if (!found.ok()) return found.status();
        v2 = *found;
      }
      const Reader reader(checkpoint, tensor.name.substr(0, tensor.name.size() - kQweight.size()));
      layer = describe_gptq_or_awq(reader, *v2);
    } else if (ends_with(tensor.name, kPacked)) {
      layer = describe_pack_quantized(Reader(checkpoint, tensor.name.substr(0, tensor.name.size() - kPacked.size())));
    }
    if (!layer.has_value()) continue;
    if (!layer->ok()) return layer->status();
    layers.push_back(**std::move(layer));
    layers.back().source = tensor.name;
    layers.back().source_dtype = std::string(name_of(layers.back().format));
  }
  return layers;
}

reference::QuantizedTensor read_foreign_layer(const Checkpoint& checkpoint, const ForeignLayer& layer) {
  reference::QuantizedTensor weight = layer.weight();
  const std::int64_t row_bytes = (layer.k + 1) / 2;
  weight.qweight.resize(static_cast<std::size_t>(layer.n * row_bytes));
  std::uint8_t* out = weight.qweight.data();

  switch (layer.format) {
    case ForeignFormat::kGptq:
    case ForeignFormat::kGptqV2: {
      // A word's eight k's are four bytes of a row as we have it.
      const Tensor& qweight = *checkpoint.find(layer.name + ".qweight");
      for (std::int64_t row = 0; row < layer.k / kPerWord; ++row) {
        for (std::int64_t n = 0; n < layer.n; ++n) {
          const std::uint32_t word = word_at(qweight, row * layer.n + n);
          std::memcpy(out + n * row_bytes + row * 4, &word, 4);
        }
      }
      break;
    }
    case ForeignFormat::kAwq: {
      const Tensor& qweight = *checkpoint.find(layer.name + ".qweight");
      const std::int64_t words = layer.n / kPerWord;
      for (std::int64_t k = 0; k < layer.k; ++k) {
        for (std::int64_t w = 0; w < words; ++w) {
          const std::uint32_t word = word_at(qweight, k * words + w);
          for (std::int64_t i = 0; i < kPerWord; ++i) {
            const std::int64_t n = w * kPerWord + place_of(layer.format, i);
            out[n * row_bytes + k / 2] |= static_cast<std::uint8_t>(element(word, i) << (k % 2 * 4));
          }
        }
      }
      break;
    }
    case ForeignFormat::kPackQuantized: {
      const Tensor& packed = *checkpoint.find(layer.name + ".weight_packed");
      const auto* from = static_cast<const std::uint8_t*>(packed.data);
      for (std::int64_t n = 0; n < layer.n; ++n) {
        std::memcpy(out + n * row_bytes, from + n * packed.shape[1] * 4, static_cast<std::size_t>(row_bytes));
        if (layer.k % 2 == 1) out[n * row_bytes + row_bytes - 1] &= 15;
      }
      break;
    }
  }

  if (layer.format == ForeignFormat::kPackQuantized) {
    weight.scales = transpose_scales(*checkpoint.find(layer.name + ".weight_scale"), layer.n, layer.groups());
  } else {
    const Tensor& scales = *checkpoint.find(layer.name + ".scales");
    const auto* bytes = static_cast<const std::uint8_t*>(scales.data);
    weight.scales.assign(bytes, bytes + scales.bytes);
  }
  if (layer.type == WeightType::kU4) {
    const Tensor* zeros = checkpoint.find(layer.name + zeros_suffix(layer.format));
    weight.zero_points = read_zeros(*zeros, layer);
  }
  return weight;
}

}  // namespace machete::formats
