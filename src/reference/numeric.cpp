#include "reference/numeric.h"

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/convert/coding.h"

namespace machete::reference {
namespace {

// To nearest even; beyond 448 that.
std::uint8_t e4m3_of(float value) {
  if (std::isnan(value)) return 0x7f;
  const std::uint8_t sign = std::signbit(value) ? 0x80 : 0;
  const float magnitude = std::min(std::abs(value), 448.0f);
  const int exponent = magnitude < 0x1p-6f ? -6 : std::ilogb(magnitude);
  // In units of the last place, of which a normal number has 8 to 16; at 16 the exponent is one more.
  const int units = static_cast<int>(std::nearbyint(std::ldexp(magnitude, 3 - exponent)));
  return static_cast<std::uint8_t>(sign | (units < 8 ? units : units + (exponent + 6) * 8));
}

}  // namespace

float to_float(DataType type, const void* base, std::int64_t index) {
  switch (type) {
    case DataType::kF16:
      return static_cast<float>(static_cast<const Eigen::half*>(base)[index]);
    case DataType::kBf16:
      return static_cast<float>(static_cast<const Eigen::bfloat16*>(base)[index]);
    case DataType::kU8:
      return static_cast<float>(static_cast<const std::uint8_t*>(base)[index]);
    case DataType::kS8:
      return static_cast<float>(static_cast<const std::int8_t*>(base)[index]);
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
      static_cast<std::uint8_t*>(base)[index] = e4m3_of(value);
      return;
    case DataType::kS8:
      static_cast<std::int8_t*>(base)[index] = static_cast<std::int8_t>(std::nearbyint(value < -128  ? -128.0f
                                                                                       : value > 127 ? 127.0f
                                                                                                     : value));
      return;
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
    case DataType::kS8:
      for (std::int64_t i = 0; i < count; ++i) out[i] = to_float(type, base, first + i);
      return;
  }
}

}  // namespace machete::reference
