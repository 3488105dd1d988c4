#include "reference/numeric.h"

#include <Eigen/Core>
#include <cmath>
#include <limits>

#include "kernels/convert/coding.h"

namespace machete::reference {

float to_float(DataType type, const void* base, std::int64_t index) {
  switch (type) {
    case DataType::kF16:
      return static_cast<float>(static_cast<const Eigen::half*>(base)[index]);
    case DataType::kBf16:
      return static_cast<float>(static_cast<const Eigen::bfloat16*>(base)[index]);
    case DataType::kU8:
      return static_cast<float>(static_cast<const std::uint8_t*>(base)[index]);
    case DataType::kE4m3:
      return convert::kE4m3Values[static_cast<const std::uint8_t*>(base)[index]];
    case DataType::kE8m0: {
      const std::uint8_t exponent = static_cast<const std::uint8_t*>(base)[index];
      return exponent == 255 ? std::numeric_limits<float>::quiet_NaN() : std::ldexp(1.0f, exponent - 127);
    }
    case DataType::kF32:
      break;
  }
  return static_cast<const float*>(base)[index];
}

void from_float(DataType type, void* base, std::int64_t index, float value) {
  switch (type) {
    case DataType::kF16:
      static_cast<Eigen::half*>(base)[index] = Eigen::half(value);
      return;
    case DataType::kBf16:
      static_cast<Eigen::bfloat16*>(base)[index] = Eigen::bfloat16(value);
      return;
    case DataType::kF32:
      static_cast<float*>(base)[index] = value;
      return;
    case DataType::kU8:
      static_cast<std::uint8_t*>(base)[index] = static_cast<std::uint8_t>(value);
      return;
    case DataType::kE4m3:
    case DataType::kE8m0:
      return;  // read only
  }
}

void to_floats(DataType type, const void* base, std::int64_t first, std::int64_t count, float* out) {
  Eigen::Map<Eigen::ArrayXf> result(out, count);
  switch (type) {
    case DataType::kF16:
      result = Eigen::Map<const Eigen::Array<Eigen::half, Eigen::Dynamic, 1>>(
                   static_cast<const Eigen::half*>(base) + first, count)
                   .cast<float>();
      return;
    case DataType::kBf16:
      result = Eigen::Map<const Eigen::Array<Eigen::bfloat16, Eigen::Dynamic, 1>>(
                   static_cast<const Eigen::bfloat16*>(base) + first, count)
                   .cast<float>();
      return;
    case DataType::kF32:
      result = Eigen::Map<const Eigen::ArrayXf>(static_cast<const float*>(base) + first, count);
      return;
    case DataType::kU8:
    case DataType::kE4m3:
    case DataType::kE8m0:
      for (std::int64_t i = 0; i < count; ++i) out[i] = to_float(type, base, first + i);
      return;
  }
}

}  // namespace machete::reference
