#include "reference/dequantize.h"

#include <algorithm>

#include "reference/numeric.h"

namespace machete::reference {

void dequantize_row(const QuantizedWeight& weight, std::int64_t n, float* out) {
  const std::int64_t group_size = weight.group_size < 0 ? weight.k : weight.group_size;
  for (std::int64_t group = 0; group < weight.groups(); ++group) {
    const float scale = to_float(weight.scale_type, weight.scales, group * weight.n + n);
    const std::int64_t end = std::min(weight.k, (group + 1) * group_size);
    for (std::int64_t k = group * group_size; k < end; ++k) {
      out[k] = scale * static_cast<float>(centred_code(weight, n, k));
    }
  }
}

std::vector<float> dequantize(const QuantizedWeight& weight) {
  std::vector<float> values(static_cast<std::size_t>(weight.n * weight.k));
#pragma omp parallel for schedule(static)
  for (std::int64_t n = 0; n < weight.n; ++n) dequantize_row(weight, n, values.data() + n * weight.k);
  return values;
}

}  // namespace machete::reference
