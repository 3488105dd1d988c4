#pragma once

#include <cutlass/bfloat16.h>
#include <cutlass/half.h>

#include <cstdint>

namespace machete::epilogue {

/// Rounds four neighbouring output features of one token, once, and writes those inside the problem.
template <class Element>
struct Store {
  Element* d;  // [M, N], rows ldd apart
  std::int64_t ldd;
  int m;
  int n;

  __device__ void operator()(int token, int feature, float4 v) const {
    if (token >= m || feature >= n) return;
    Element* out = d + token * ldd + feature;
    const Element rounded[4] = {Element(v.x), Element(v.y), Element(v.z), Element(v.w)};
    if (ldd % 4 == 0 && feature + 4 <= n) {  // d is 16-byte aligned, feature a multiple of 4
      *reinterpret_cast<uint2*>(out) = *reinterpret_cast<const uint2*>(rounded);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (feature + i < n) out[i] = rounded[i];
      }
    }
  }
};

}  // namespace machete::epilogue
