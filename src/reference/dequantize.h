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

  /// The code of element (n, k), counted from the type's lowest.
  int code(std::int64_t n, std::int64_t k) const {
    const auto* row = static_cast<const std::uint8_t*>(weight_.qweight) + n * row_bytes_;
    const unsigned q = coding_.bits == 8 ? row[k] : row[k / 2] >> (k % 2 * 4) & 15u;
    return coding_.counted(static_cast<std::uint8_t>(q));
  }
  /// What to take from the codes of a group, and to multiply them with.
  float zero(std::int64_t group, std::int64_t n) const {
    if (!coding_.has_zero_points) return static_cast<float>(coding_.middle());
    return to_float(weight_.zero_point_type, weight_.zero_points, group * weight_.n + n);
  }
  float scale(std::int64_t group, std::int64_t n) const {
    return to_float(weight_.scale_type, weight_.scales, group * weight_.n + n);
  }

  /// Calls visit(first k, end, zero, scale) for every group of row n.
  template <class Visit>
  void for_each_group(std::int64_t n, Visit visit) const {
    const std::int64_t size = weight_.group_size < 0 ? weight_.k : weight_.group_size;
    for (std::int64_t group = 0; group < weight_.groups(); ++group) {
      const std::int64_t end = (group + 1) * size < weight_.k ? (group + 1) * size : weight_.k;
      visit(group * size, end, zero(group, n), scale(group, n));
    }
  }

 private:
  const QuantizedWeight& weight_;
  convert::Coding coding_;
  std::int64_t row_bytes_;
};

/// Row n as scale * (q - zero), of a weight in CPU memory; exact for 16-bit scales and integer zero points.
void dequantize_row(const QuantizedWeight& weight, std::int64_t n, float* out /* [K] */);

/// All rows: [N, K].
std::vector<float> dequantize(const QuantizedWeight& weight);

}  // namespace machete::reference
