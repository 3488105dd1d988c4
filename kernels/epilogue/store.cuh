#pragma once

#include <cuda_fp8.h>
#include <cutlass/bfloat16.h>
#include <cutlass/half.h>

#include <cstdint>
#include <type_traits>

#include "kernels/epilogue/activation.cuh"
#include "kernels/epilogue/operands.h"

namespace machete::epilogue {

/// Neighbours in a row, read or written together.
template <class T, int kCount>
struct alignas(sizeof(T) * kCount < 16 ? sizeof(T) * kCount : 16) Neighbours {
  T value[kCount];
};

/// The same in whole registers, so that what is fetched ahead is not taken apart, and waited for, where it is fetched.
template <class T, int kCount>
struct alignas(Neighbours<T, kCount>) Registers {
  using Word = std::conditional_t<sizeof(T) * kCount == 2, std::uint16_t, std::uint32_t>;
  Word words[sizeof(T) * kCount / sizeof(Word)];

  __device__ static Registers of(const Neighbours<T, kCount>& values) {
    return reinterpret_cast<const Registers&>(values);
  }
  __device__ Neighbours<T, kCount> values() const { return reinterpret_cast<const Neighbours<T, kCount>&>(*this); }
};

/// Writes neighbouring columns of one token, those inside the problem. First columns are multiples of how many there
/// are, up to eight; tokens and columns beyond the problem are taken, and left out.
template <class Element>
struct Store {
  void* d;  // [M, columns] of d_type, rows ldd apart, 16-byte aligned
  std::int64_t ldd;
  int m;
  int n;         // rows of the packed weight
  int columns;   // of D: n, or with swiglu half of it
  float factor;  // of every sum: the weight's tensor scale
  DataType d_type;
  bool aligned;  // every row of D and of the residual, and up's first channel, begins at a multiple of eight elements
  Operands operands;

  __device__ bool swiglu() const { return operands.activation == Activation::kSwiglu; }

  /// Eight columns, through their epilogue and rounded already.
  __device__ void operator()(int token, int column, uint4 rounded) const {
    put(token, column, reinterpret_cast<const Neighbours<Element, 8>&>(rounded));
  }

  /// Four sums, rounded here, once.
  __device__ void round(int token, int column, float4 sum) const {
    put(token, column,
        Neighbours<Element, 4>{
            {Element(sum.x * factor), Element(sum.y * factor), Element(sum.z * factor), Element(sum.w * factor)}});
  }

  /// Of the residual, where there is one.
  template <int kCount>
  using Residual = Registers<Element, kCount>;
  template <int kCount>
  __device__ Residual<kCount> residual(int token, int column) const {
    Residual<kCount> result;
    const auto* from = static_cast<const Element*>(operands.residual);
    if (from != nullptr) get(from + min(token, m - 1) * operands.ldc, column, result);
    return result;
  }

  template <int kCount>
  __device__ static void add(const Residual<kCount>& residual, float (&values)[kCount]) {
    const auto each = residual.values();
#pragma unroll
    for (int i = 0; i < kCount; ++i) values[i] += static_cast<float>(each.value[i]);
  }

  /// The last step: rounds to whatever D is of, and stores.
  template <int kCount>
  __device__ void finish(int token, int column, const float (&values)[kCount]) const {
    if (d_type == DataType::kF32) {
      put(token, column, reinterpret_cast<const Neighbours<float, kCount>&>(values));
    } else if (d_type == DataType::kE4m3) {
      const float factor = operands.output_scale == nullptr ? 1.f : __frcp_rn(*operands.output_scale);
      Neighbours<__nv_fp8_e4m3, kCount> codes;
#pragma unroll
      for (int i = 0; i < kCount; ++i) codes.value[i] = __nv_fp8_e4m3(values[i] * factor);  // nearest even, saturating
      put(token, column, codes);
    } else {
      Neighbours<Element, kCount> rounded;
#pragma unroll
      for (int i = 0; i < kCount; ++i) rounded.value[i] = Element(values[i]);
      put(token, column, rounded);
    }
  }

  /// What the steps for a token's neighbours read, so that it may be fetched before their sums are there.
  template <int kCount>
  struct Inputs {
    float token_scale;
    Registers<float, kCount> channel_scale[2];  // of up, too, where there is swiglu
    Registers<Element, kCount> bias[2];
    Residual<kCount> residual;
  };
  template <int kCount>
  __device__ Inputs<kCount> inputs(int token, int column) const {
    Inputs<kCount> in;
    in.token_scale = operands.token_scale == nullptr ? 1.f : operands.token_scale[min(token, m - 1)];
    in.residual = residual<kCount>(token, column);
#pragma unroll
    for (int part = 0; part < 2; ++part) {
      if (part == 1 && !swiglu()) break;
      Neighbours<float, kCount> ones;
#pragma unroll
      for (int i = 0; i < kCount; ++i) ones.value[i] = 1.f;
      in.channel_scale[part] = Registers<float, kCount>::of(ones);
      in.bias[part] = {};
      const auto* bias = static_cast<const Element*>(operands.bias);
      if (operands.channel_scale != nullptr) {
        get(operands.channel_scale + part * columns, column, in.channel_scale[part]);
      }
      if (bias != nullptr) get(bias + part * columns, column, in.bias[part]);
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
      return fmaf(sum * in.token_scale, factor * in.channel_scale[part].values().value[i],
                  static_cast<float>(in.bias[part].values().value[i]));
    };
#pragma unroll
    for (int i = 0; i < kCount; ++i) y[i] = scaled(0, i, sums[i]);
    activate(operands.activation, y, kCount);
    if (swiglu()) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) y[i] *= scaled(1, i, up[i]);
    }
    if (operands.residual != nullptr) add(in.residual, y);
    finish(token, column, y);
  }

 private:
  /// Of a row [columns], those that there are.
  template <class T, int kCount>
  __device__ void get(const T* row, int column, Registers<T, kCount>& out) const {
    if (aligned && column + kCount <= columns) {
      out = *reinterpret_cast<const Registers<T, kCount>*>(row + column);
      return;
    }
    Neighbours<T, kCount> each = {};
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if (column + i < columns) each.value[i] = row[column + i];
    }
    out = Registers<T, kCount>::of(each);
  }

  template <class T, int kCount>
  __device__ void put(int token, int column, const Neighbours<T, kCount>& values) const {
    if (token >= m || column >= columns) return;
    T* out = static_cast<T*>(d) + token * ldd + column;
    if (aligned && column + kCount <= columns) {
      *reinterpret_cast<Neighbours<T, kCount>*>(out) = values;
      return;
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if (column + i < columns) out[i] = values.value[i];
    }
  }
};

}  // namespace machete::epilogue
