#pragma once

#include <cstdint>
#include <vector>

#include "machete/weight.h"

namespace machete::reference {

/// The integer q - zero of element (n, k).
inline int centred_code(const QuantizedWeight& weight, std::int64_t n, std::int64_t k) {
  const std::uint8_t byte = static_cast<const std::uint8_t*>(weight.qweight)[n * ((weight.k + 1) / 2) + k / 2];
  const int q = k % 2 == 0 ? byte & 15 : byte >> 4;
  if (weight.type == WeightType::kU4b8) return q - 8;
  const std::int64_t group = weight.group_size < 0 ? 0 : k / weight.group_size;
  return q - static_cast<const std::uint8_t*>(weight.zero_points)[group * weight.n + n];
}

/// Row n as scale * (q - zero), of a weight in CPU memory; exact for 16-bit scales.
void dequantize_row(const QuantizedWeight& weight, std::int64_t n, float* out /* [K] */);

/// All rows: [N, K].
std::vector<float> dequantize(const QuantizedWeight& weight);

}  // namespace machete::reference
