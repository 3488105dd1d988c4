#pragma once

#include <cstdint>

namespace machete::epilogue {

/// Two numbers as e4m3, the first in the low byte: to nearest even, larger ones and infinities to 448, NaN to NaN.
__device__ inline std::uint32_t e4m3_pair(float low, float high) {
  std::uint16_t pair;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(high), "f"(low));
  return pair;
}

}  // namespace machete::epilogue
