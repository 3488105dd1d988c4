#include "machete/types.h"

#include <string>

#include "api/memory.h"

namespace machete {

std::size_t bytes_of(DataType type) { return type == DataType::kF32 ? 4 : 2; }

int bits_of(WeightType type) {
  switch (type) {
    case WeightType::kU4b8:
    case WeightType::kU4:
      return 4;
  }
  return 0;
}

std::string_view name_of(DataType type) {
  switch (type) {
    case DataType::kF16:
      return "f16";
    case DataType::kBf16:
      return "bf16";
    case DataType::kF32:
      return "f32";
  }
  return "unknown";
}

std::string_view name_of(WeightType type) {
  switch (type) {
    case WeightType::kU4b8:
      return "u4b8";
    case WeightType::kU4:
      return "u4";
  }
  return "unknown";
}

std::string_view name_of(Backend backend) { return backend == Backend::kCuda ? "cuda" : "cpu"; }

Result<DataType> parse_data_type(std::string_view name) {
  if (name == "f16" || name == "fp16" || name == "float16") return DataType::kF16;
  if (name == "bf16" || name == "bfloat16") return DataType::kBf16;
  if (name == "f32" || name == "fp32" || name == "float32") return DataType::kF32;
  return Status(StatusCode::kInvalidArgument, "type '" + std::string(name) + "' is not known; use f16, bf16 or f32");
}

Result<WeightType> parse_weight_type(std::string_view name) {
  if (name == "u4b8") return WeightType::kU4b8;
  if (name == "u4") return WeightType::kU4;
  return Status(StatusCode::kInvalidArgument, "weight type '" + std::string(name) + "' is not known; use u4b8 or u4");
}

Device default_device() {
  static const Device device = memory::first_hopper();
  return device;
}

}  // namespace machete
