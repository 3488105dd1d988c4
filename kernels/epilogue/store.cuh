#pragma once

#include <cutlass/bfloat16.h>
#include <cutlass/half.h>

#include <cstdint>

#include "kernels/epilogue/activation.cuh"
#include "kernels/epilogue/e4m3.cuh"
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
  __device__ bool rounds_to_16_bits() const { return d_type != DataType::kF32 && d_type != DataType::kE4m3; }
  /// What e4m3 outputs are multiplied by.
  __device__ float output_factor() const {
    return operands.output_scale == nullptr ? 1.f : __frcp_rn(*operands.output_scale);
  }

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

  /// Eight columns of D in f32 or e4m3.
  __device__ void wide(int token, int column, float4 first, float4 second) const {
    if (token >= m || column >= columns()) return;
    const std::int64_t at = token * ldd + column;
    const float floats[8] = {first.x, first.y, first.z, first.w, second.x, second.y, second.z, second.w};
    if (d_type == DataType::kF32) {
      put(static_cast<float*>(d) + at, columns() - column, floats);
    } else if (d_type == DataType::kE4m3) {
      const float factor = output_factor();
      std::uint32_t codes[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        codes[i] = e4m3_pair(floats[i * 4] * factor, floats[i * 4 + 1] * factor) |
                   e4m3_pair(floats[i * 4 + 2] * factor, floats[i * 4 + 3] * factor) << 16;
      }
      put(static_cast<std::uint8_t*>(d) + at, columns() - column, reinterpret_cast<const std::uint8_t(&)[8]>(codes));
    } else {
      Element rounded[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) rounded[i] = Element(floats[i]);
      put(static_cast<Element*>(d) + at, columns() - column, rounded);
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
    if (d_type == DataType::kF32) {
      static_cast<float*>(d)[at] = y;
    } else if (d_type == DataType::kE4m3) {
      static_cast<std::uint8_t*>(d)[at] = static_cast<std::uint8_t>(e4m3_pair(y * output_factor(), 0.f));
    } else {
      static_cast<Element*>(d)[at] = Element(y);
    }
  }

 private:
  /// Of eight neighbours those that there are; D is 16-byte aligned, a column a multiple of 8.
  template <class T>
  __device__ void put(T* out, int there, const T (&values)[8]) const {
    struct alignas(sizeof(T) == 1 ? 8 : 16) Eight {
      T value[8];
    };
    if (ldd % 8 == 0 && there >= 8) {
      *reinterpret_cast<Eight*>(out) = reinterpret_cast<const Eight&>(values);
      return;
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (i < there) out[i] = values[i];
    }
  }

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
