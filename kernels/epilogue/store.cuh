#pragma once

#include <cutlass/bfloat16.h>
#include <cutlass/half.h>

#include <cstdint>

namespace machete::epilogue {

/// Writes neighbouring output features of one token, those inside the problem.
template <class Element>
struct Store {
  Element* d;  // [M, N], rows ldd apart
  std::int64_t ldd;
  int m;
  int n;
  float factor;  // of every sum: the weight's tensor scale

  /// Eight features, rounded already.
  __device__ void operator()(int token, int feature, uint4 rounded) const {
    if (token >= m || feature >= n) return;
    Element* out = d + token * ldd + feature;
    if (ldd % 8 == 0 && feature + 8 <= n) {  // d is 16-byte aligned, feature a multiple of 8
      *reinterpret_cast<uint4*>(out) = rounded;
    } else {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        if (feature + i < n) out[i] = reinterpret_cast<const Element*>(&rounded)[i];
      }
    }
  }

  /// Four sums, rounded here, once.
  __device__ void operator()(int token, int feature, float4 v) const {
    if (token >= m || feature >= n) return;
    Element* out = d + token * ldd + feature;
    const Element rounded[4] = {Element(v.x * factor), Element(v.y * factor), Element(v.z * factor),
                                Element(v.w * factor)};
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
