#include "reference/dequantize.h"

namespace machete::reference {

void dequantize_row(const QuantizedWeight& weight, std::int64_t n, float* out) {
  const WeightReader reader(weight);
  reader.for_each_group(n, [&](std::int64_t k, std::int64_t end, float zero, float scale) {
    for (; k < end; ++k) out[k] = scale * (reader.value(n, k) - zero);
  });
}

std::vector<float> dequantize(const QuantizedWeight& weight) {
  std::vector<float> values(static_cast<std::size_t>(weight.n * weight.k));
#pragma omp parallel for schedule(static)
  for (std::int64_t n = 0; n < weight.n; ++n) dequantize_row(weight, n, values.data() + n * weight.k);
  return values;
}

}  // namespace machete::reference
