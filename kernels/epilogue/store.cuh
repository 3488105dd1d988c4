#pragma once

#include <cuda_fp8.h>
#include <cutlass/bfloat16.h>
#include <cutlass/half.h>

#include <cstdint>

#include "kernels/epilogue/activation.cuh"
#include "kernels/epilogue/operands.h"

namespace machete::epilogue {

/// Writes neighbouring output features of one token, those inside the problem. Rows are those of the packed weight.
template <class Element>
struct Store {
  void* d;  // [M, columns] of d_type, rows ldd apart
  std::int64_t ldd;
  int m;
  int n;
  float factor;     // of every sum: the weight's tensor scale
  DataType d_type;  // Element's, f32 or e4m3
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

  /// Neighbours in a token of the residual, zeros where there are none. Columns are multiples of kCount, here and
  /// below.
  template <int kCount>
  struct alignas(2 * kCount) Residual {
    Element value[kCount];
  };
  template <int kCount>
  __device__ Residual<kCount> residual(int token, int column) const {
    Residual<kCount> result = {};
    const int there = columns() - column;
    if (operands.residual == nullptr || token >= m) return result;
    const Element* from = static_cast<const Element*>(operands.residual) + token * operands.ldc + column;
    if (operands.ldc % kCount == 0 && there >= kCount) return *reinterpret_cast<const Residual<kCount>*>(from);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if (i < there) result.value[i] = from[i];
    }
    return result;
  }

  /// The last steps: adds the residual, rounds and stores.
  template <int kCount>
  __device__ void finish(int token, int column, float (&values)[kCount], const Residual<kCount>& residual) const {
    const int there = columns() - column;
    if (token >= m || there <= 0) return;
    if (operands.residual != nullptr) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) values[i] += static_cast<float>(residual.value[i]);
    }
    const std::int64_t at = token * ldd + column;
    if (d_type == DataType::kF32) {
      put(static_cast<float*>(d) + at, there, values);
    } else if (d_type == DataType::kE4m3) {
      const float factor = operands.output_scale == nullptr ? 1.f : __frcp_rn(*operands.output_scale);
      __nv_fp8_e4m3 codes[kCount];
#pragma unroll
      for (int i = 0; i < kCount; ++i) codes[i] = __nv_fp8_e4m3(values[i] * factor);  // to nearest even, saturating
      put(static_cast<__nv_fp8_e4m3*>(d) + at, there, codes);
    } else {
      Element rounded[kCount];
#pragma unroll
      for (int i = 0; i < kCount; ++i) rounded[i] = Element(values[i]);
      put(static_cast<Element*>(d) + at, there, rounded);
    }
  }

  /// What the steps for a token's neighbours read, so that it may be fetched before their sums are there.
  template <int kCount>
  struct Inputs {
    float token_scale;
    float channel_scale[2][kCount];  // of up, too, where there is swiglu
    float bias[2][kCount];
    Residual<kCount> residual;
  };
  template <int kCount>
  __device__ Inputs<kCount> inputs(int token, int column) const {
    Inputs<kCount> in;
    in.token_scale = operands.token_scale == nullptr ? 1.f : operands.token_scale[token];
    in.residual = residual<kCount>(token, column);
#pragma unroll
    for (int part = 0; part < 2; ++part) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        const int channel = part * columns() + column + i;
        const bool there = column + i < columns() && (part == 0 || swiglu());
        in.channel_scale[part][i] = there && operands.channel_scale != nullptr ? operands.channel_scale[channel] : 1.f;
        in.bias[part][i] = there && operands.bias != nullptr
                               ? static_cast<float>(static_cast<const Element*>(operands.bias)[channel])
                               : 0.f;
      }
    }
    return in;
  }

  /// Sums of neighbouring rows through all the steps, as the tree of visitors.cuh takes them. `up` are those of the
  /// rows eight further on, for swiglu.
  template <int kCount>
  __device__ void finish(int token, int column, const float (&sums)[kCount], const float (&up)[kCount],
                         const Inputs<kCount>& in) const {
    float y[kCount];
    const auto scaled = [&](int part, int i, float sum) {
      return sum * factor * in.token_scale * in.channel_scale[part][i] + in.bias[part][i];
    };
#pragma unroll
    for (int i = 0; i < kCount; ++i) y[i] = scaled(0, i, sums[i]);
    activate(operands.activation, y, kCount);
    if (swiglu()) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) y[i] *= scaled(1, i, up[i]);
    }
    finish(token, column, y, in.residual);
  }

 private:
  /// Of neighbours those that there are; D is 16-byte aligned.
  template <class T, int kCount>
  __device__ void put(T* out, int there, const T (&values)[kCount]) const {
    constexpr int kBytes = static_cast<int>(sizeof(T)) * kCount;
    struct alignas(kBytes < 16 ? kBytes : 16) Together {
      T value[kCount];
    };
    if (ldd % kCount == 0 && there >= kCount) {
      *reinterpret_cast<Together*>(out) = reinterpret_cast<const Together&>(values);
      return;
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if (i < there) out[i] = values[i];
    }
  }
};

}  // namespace machete::epilogue
