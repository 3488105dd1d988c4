#pragma once

#include <cstdint>
#include <vector>

#include "kernels/convert/coding.h"
#include "machete/weight.h"
#include "reference/numeric.h"

namespace machete::reference {

/// Reads a weight in CPU memory, element by element.
class WeightReader {
 public:
  explicit WeightReader(const QuantizedWeight& weight)
      : weight_(weight), coding_(convert::coding_of(weight.type)), row_bytes_(weight.row_bytes()) {}

  /// The code of element (n, k), of integer types counted from the lowest, and its value.
  int code(std::int64_t n, std::int64_t k) const {
    const auto* row = static_cast<const std::uint8_t*>(weight_.qweight) + n * row_bytes_;
    const unsigned q = coding_.bits == 8 ? row[k] : row[k / 2] >> (k % 2 * 4) & 15u;
    return coding_.counted(static_cast<std::uint8_t>(q));
  }
  float value(std::int64_t n, std::int64_t k) const { return coding_.value(code(n, k)); }
  /// What to take from the values of a group, and to multiply them with.
  float zero(std::int64_t group, std::int64_t n) const {
    if (!coding_.has_zero_points) return coding_.implied_zero();
    return to_float(weight_.zero_point_type, weight_.zero_points, group * weight_.n + n);
  }
  float scale(std::int64_t group, std::int64_t n) const {
    return weight_.tensor_scale * to_float(weight_.scale_type, weight_.scales, group * weight_.n + n);
  }

  /// Calls visit(first k, end, zero, scale) for stretches of row n that lie in one group.
  template <class Visit>
  void for_each_group(std::int64_t n, Visit visit) const {
    const std::int64_t size = weight_.group_size > 0 ? weight_.group_size : weight_.k;
    for (std::int64_t k = 0; k < weight_.k;) {
      const std::int64_t group = weight_.g_idx == nullptr ? k / size : weight_.g_idx[k];
      const std::int64_t end = weight_.g_idx == nullptr ? (group + 1) * size : k + 1;
      visit(k, end < weight_.k ? end : weight_.k, zero(group, n), scale(group, n));
      k = end;
    }
  }

 private:
  const QuantizedWeight& weight_;
  convert::Coding coding_;
  std::int64_t row_bytes_;
};

/// Row n as scale * (q - zero), of a weight in CPU memory; exact for 16-bit scales, integer zero points and a tensor
/// scale of 1.
void dequantize_row(const QuantizedWeight& weight, std::int64_t n, float* out /* [K] */);

/// All rows: [N, K].
std::vector<float> dequantize(const QuantizedWeight& weight);

}  // namespace machete::reference
