#include "reference/tokens.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/tokens/scale.h"
#include "reference/numeric.h"

namespace machete::reference {

void quantize_tokens(const TokenQuantization& what, const void* a, void* codes, float* token_scale) {
  const float limit = what.code_type == DataType::kS8 ? 127.0f : 448.0f;
#pragma omp parallel
  {
    std::vector<float> row(static_cast<std::size_t>(what.k));
#pragma omp for schedule(static)
    for (std::int64_t m = 0; m < what.m; ++m) {
      to_floats(what.a_type, a, m * what.lda, what.k, row.data());
      float largest = 0;
      bool finite = true;
      for (const float value : row) {
        finite = finite && std::isfinite(value);
        largest = std::max(largest, std::abs(value));
      }
      const tokens::Scale scale = finite ? tokens::scale_of(largest, limit) : tokens::Scale{};
      token_scale[m] = finite ? scale.scale : std::numeric_limits<float>::quiet_NaN();
      for (std::int64_t k = 0; k < what.k; ++k) {
        const float scaled = finite ? row[static_cast<std::size_t>(k)] * scale.reciprocal : 0.0f;
        from_float(what.code_type, codes, m * what.ldc + k, scaled);
      }
    }
  }
}

}  // namespace machete::reference
