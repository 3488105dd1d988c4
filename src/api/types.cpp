#include "machete/types.h"

#include <fmt/format.h>

#include <string>

#include "api/memory.h"
#include "kernels/convert/coding.h"

namespace machete {

std::size_t bytes_of(DataType type) {
  switch (type) {
    case DataType::kF32:
      return 4;
    case DataType::kU8:
    case DataType::kE4m3:
    case DataType::kE8m0:
    case DataType::kS8:
      return 1;
    case DataType::kF16:
    case DataType::kBf16:
      break;
  }
  return 2;
}

int bits_of(DataType type) { return static_cast<int>(bytes_of(type)) * 8; }
int bits_of(WeightType type) { return convert::coding_of(type).bits; }
bool has_zero_points(WeightType type) { return convert::coding_of(type).has_zero_points; }

std::vector<WeightType> weight_types() {
  std::vector<WeightType> types;
  for (const convert::Type& type : convert::kTypes) types.push_back(type.type);
  return types;
}

std::string_view name_of(DataType type) {
  switch (type) {
    case DataType::kF16:
      return "f16";
    case DataType::kBf16:
      return "bf16";
    case DataType::kF32:
      return "f32";
    case DataType::kU8:
      return "u8";
    case DataType::kE4m3:
      return "e4m3";
    case DataType::kE8m0:
      return "e8m0";
    case DataType::kS8:
      return "s8";
  }
  return "unknown";
}

std::string_view name_of(WeightType type) {
  const convert::Type* found = convert::find(type);
  return found != nullptr ? found->name : "unknown";
}

std::string_view name_of(Backend backend) { return backend == Backend::kCuda ? "cuda" : "cpu"; }

Result<DataType> parse_data_type(std::string_view name) {
  if (name == "f16" || name == "fp16" || name == "float16") return DataType::kF16;
  if (name == "bf16" || name == "bfloat16") return DataType::kBf16;
  if (name == "f32" || name == "fp32" || name == "float32") return DataType::kF32;
  if (name == "u8" || name == "uint8") return DataType::kU8;
  if (name == "e4m3" || name == "float8_e4m3fn") return DataType::kE4m3;
  if (name == "e8m0" || name == "float8_e8m0fnu") return DataType::kE8m0;
  if (name == "s8" || name == "int8") return DataType::kS8;
  return Status(StatusCode::kInvalidArgument,
                fmt::format("type '{}' is not known; use f16, bf16 or f32, e4m3 or s8 for activations, u8 for zero "
                            "points, e4m3 or e8m0 for scales",
                            name));
}

Result<WeightType> parse_weight_type(std::string_view name) {
  std::string known;
  for (const WeightType type : weight_types()) {
    if (name == name_of(type)) return type;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", name_of(type));
  }
  return Status(StatusCode::kInvalidArgument, fmt::format("weight type '{}' is not known; use one of {}", name, known));
}

Device default_device() {
  static const Device device = memory::first_hopper();
  return device;
}

}  // namespace machete
