#pragma once

#include <cutlass/bfloat16.h>
#include <cutlass/half.h>

#include <cstdint>

#include "kernels/epilogue/activation.cuh"
#include "kernels/epilogue/operands.h"

namespace machete::epilogue {

/// Writes neighbouring output features of one token, those inside the problem. Rows are those of the packed weight.
template <class Element>
struct Store {
  void* d;  // [M, columns] of Element, or of floats; rows ldd apart
  std::int64_t ldd;
  int m;
  int n;
  float factor;  // of every sum: the weight's tensor scale
  bool floats;
  Operands operands;

  __device__ bool swiglu() const { return operands.activation == Activation::kSwiglu; }
  __device__ int columns() const { return swiglu() ? n / 2 : n; }

  /// Eight columns of D, through their epilogue and rounded already.
  __device__ void operator()(int token, int column, int columns, uint4 rounded) const {
    if (token >= m || column >= columns) return;
    Element* out = static_cast<Element*>(d) + token * ldd + column;
    if (ldd % 8 == 0 && column + 8 <= columns) {  // d is 16-byte aligned, column a multiple of 8
      *reinterpret_cast<uint4*>(out) = rounded;
    } else {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        if (column + i < columns) out[i] = reinterpret_cast<const Element*>(&rounded)[i];
      }
    }
  }

  /// Four sums, rounded here, once.
  __device__ void round(int token, int row, float4 sum) const {
    if (token >= m || row >= n) return;
    Element* out = static_cast<Element*>(d) + token * ldd + row;
    const Element rounded[4] = {Element(sum.x * factor), Element(sum.y * factor), Element(sum.z * factor),
                                Element(sum.w * factor)};
    if (ldd % 4 == 0 && row + 4 <= n) {  // d is 16-byte aligned, row a multiple of 4
      *reinterpret_cast<uint2*>(out) = *reinterpret_cast<const uint2*>(rounded);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (row + i < n) out[i] = rounded[i];
      }
    }
  }

  /// One sum through the steps of the epilogue. `up` is that of the row eight further on, for swiglu.
  __device__ void finish(int token, int column, float sum, float up) const {
    if (token >= m || column >= columns()) return;
    const float y = finished(token, column, sum * factor, up * factor);
    const std::int64_t at = token * ldd + column;
    if (floats) {
      static_cast<float*>(d)[at] = y;
    } else {
      static_cast<Element*>(d)[at] = Element(y);
    }
  }

 private:
  /// The named steps, as the tree of visitors.cuh takes them.
  __device__ float finished(int token, int column, float x, float up) const {
    float y = activate(operands.activation, scaled(token, column, x));
    if (swiglu()) y *= scaled(token, columns() + column, up);
    if (operands.residual == nullptr) return y;
    return y + static_cast<float>(static_cast<const Element*>(operands.residual)[token * operands.ldc + column]);
  }
  __device__ float scaled(int token, int channel, float x) const {
    if (operands.token_scale != nullptr) x *= operands.token_scale[token];
    if (operands.channel_scale != nullptr) x *= operands.channel_scale[channel];
    if (operands.bias != nullptr) x += static_cast<float>(static_cast<const Element*>(operands.bias)[channel]);
    return x;
  }
};

}  // namespace machete::epilogue
