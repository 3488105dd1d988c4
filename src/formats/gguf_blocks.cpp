// GGUF's blocks of 32 elements along K, each with a scale d of fp16: Q4_0, w = d (q - 8); Q8_0, w = d q; Q4_1, which
// adds a minimum m of fp16, w = d q + m. A byte of 4-bit codes holds element i in its low half and i + 16 in its high
// half.
#include <fmt/format.h>

#include <array>
#include <cstring>

#include "formats/format_list.h"
#include "formats/layer_tensors.h"
#include "reference/numeric.h"

namespace machete::formats {
namespace {

constexpr std::int64_t kGroup = 32;

struct Kind {
  std::string_view dtype;
  WeightType type;
  std::size_t codes;  // where in a block they begin
  std::size_t bytes;  // of a block
};
constexpr std::array kKinds = {Kind{"Q4_0", WeightType::kU4b8, 2, 18}, Kind{"Q4_1", WeightType::kU4, 4, 20},
                               Kind{"Q8_0", WeightType::kS8, 2, 34}};

const Kind* kind_of(const Tensor& tensor) {
  for (const Kind& kind : kKinds) {
    if (kind.dtype == tensor.dtype) return &kind;
  }
  return nullptr;
}

/// Whatever only GGUF has: other files hold dtypes of safetensors alone.
std::string recognise(const Checkpoint& /*checkpoint*/, const Tensor& tensor) {
  if (bits_of_dtype(tensor.dtype) != 0) return "";
  const std::string name = without_suffix(tensor.name, ".weight");
  return name.empty() ? tensor.name : name;
}

Result<ForeignLayer> describe(const Checkpoint& /*checkpoint*/, const Tensor& tensor, const std::string& /*name*/) {
  ForeignLayer layer;
  layer.parts = {tensor.name};
  if (tensor.shape.size() != 2 || tensor.bytes == 0) {
    layer.obstacle = fmt::format("{} of shape {}, which is no matrix", tensor.dtype, to_string(tensor.shape));
    return layer;
  }
  layer.n = tensor.shape[0];
  layer.k = tensor.shape[1];
  const Kind* kind = kind_of(tensor);
  if (kind == nullptr) {
    layer.obstacle = fmt::format("{}; of GGUF's blocks Q4_0, Q4_1 and Q8_0 are read", tensor.dtype);
    return layer;
  }
  layer.type = kind->type;
  layer.bits = bits_of(kind->type);
  layer.group_size = kGroup;
  layer.scale_type = DataType::kF16;
  layer.zero_point_type = DataType::kF32;
  return layer;
}

/// A group of Q4_1: its scale, fp16, and its zero point, -m / d rounded once. Where d is 0 all elements equal m, which
/// is m (0 - -1): then scale and zero point say that, and the codes, which mean nothing, become 0.
struct Affine {
  float scale;
  float zero;
  bool constant;

  Affine(float d, float m) : scale(d), zero(m == 0 ? 0 : -m / d), constant(d == 0) {
    if (!constant) return;
    scale = m;
    zero = -1;
  }
};

void read_block(const std::uint8_t* block, const Kind& kind, std::uint8_t* codes) {
  if (kind.type == WeightType::kS8) {
    std::memcpy(codes, block + kind.codes, kGroup);
    return;
  }
  const std::uint8_t* from = block + kind.codes;
  const auto half = [from](std::size_t i) { return i < 16 ? from[i] & 15u : from[i - 16] >> 4; };
  for (std::size_t i = 0; i < kGroup; i += 2) codes[i / 2] = static_cast<std::uint8_t>(half(i) | half(i + 1) << 4);
}

reference::QuantizedTensor read(const Checkpoint& checkpoint, const ForeignLayer& layer) {
  const Tensor& tensor = *checkpoint.find(layer.parts.front());
  const Kind& kind = *kind_of(tensor);
  reference::QuantizedTensor weight = layer.weight();
  const std::int64_t groups = layer.groups();
  const auto block_codes = static_cast<std::size_t>(kGroup * layer.bits / 8);
  weight.qweight.resize(static_cast<std::size_t>(layer.n * groups) * block_codes);
  weight.scales.resize(static_cast<std::size_t>(layer.n * groups) * bytes_of(layer.scale_type));
  if (has_zero_points(layer.type)) {
    weight.zero_points.resize(static_cast<std::size_t>(layer.n * groups) * bytes_of(layer.zero_point_type));
  }
  const auto* block = static_cast<const std::uint8_t*>(tensor.data);
  std::uint8_t* codes = weight.qweight.data();
  for (std::int64_t n = 0; n < layer.n; ++n) {
    for (std::int64_t group = 0; group < groups; ++group, block += kind.bytes, codes += block_codes) {
      const std::int64_t at = group * layer.n + n;
      std::uint16_t numbers[2] = {};  // d, and m where there is one
      std::memcpy(numbers, block, kind.codes);
      read_block(block, kind, codes);
      std::memcpy(weight.scales.data() + at * 2, numbers, 2);
      if (!has_zero_points(layer.type)) continue;
      const Affine affine(reference::to_float(DataType::kF16, numbers, 0),
                          reference::to_float(DataType::kF16, numbers, 1));
      if (affine.constant) std::memset(codes, 0, block_codes);
      reference::from_float(layer.scale_type, weight.scales.data(), at, affine.scale);
      reference::from_float(layer.zero_point_type, weight.zero_points.data(), at, affine.zero);
    }
  }
  return weight;
}

}  // namespace

const Format kGguf = {"gguf", recognise, describe, read};

}  // namespace machete::formats
