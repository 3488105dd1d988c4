#pragma once

#include <cstdint>

#include "machete/epilogue.h"
#include "machete/types.h"

namespace machete {

/// D = epilogue(A[M,K] · W[N,K]ᵀ), W = scale · (q - zero): M tokens, N output features, K input features.
struct Problem {
  std::int64_t m = 0;  // tokens; 0 is a valid problem that does nothing
  std::int64_t n = 0;  // output features, >= 1
  std::int64_t k = 0;  // input features, >= 1
  // Of the activations: bf16 or f16 with any weight; s8 with u4b8, s4, u8b128, s8; e4m3 with u4b8, s4, e2m1, e4m3. The
  // scales of 8-bit activations are the epilogue's token_scale (quantize_tokens makes both).
  DataType a_type = DataType::kBf16;
  // Of the output: that of 16-bit activations, else bf16 or f16 (on CUDA in builds with MACHETE_INSTANCES=all); or f32;
  // or e4m3, which saturates at +-448, with the epilogue's output_scale or without. On the CPU any of these.
  DataType d_type = DataType::kBf16;
  WeightType w_type = WeightType::kU4b8;
  std::int64_t group_size =
      128;               // elements of K sharing a scale: a multiple of 16, or -1 for one scale per output feature
  std::int64_t lda = 0;  // elements between rows of A, >= k; 0 means k
  std::int64_t ldd = 0;  // elements between rows of D, >= d_columns(); 0 means that
  // Activations of e4m3 (CUDA): sums of a whole scale group may stay in the tensor cores, which keep few bits of them,
  // instead of 128 k at most. Faster from some 128 tokens on; docs/numerics.md has what it costs. Others are as
  // without.
  bool fast_accumulation = false;
  // The weight may have g_idx: K in an order of its own, in which CUDA gathers the activations, into the workspace.
  bool act_order = false;
  Epilogue epilogue;
  std::int64_t ldc = 0;  // elements between rows of the epilogue's residual, >= d_columns(); 0 means that

  /// Of the weight's scales and zero points, of bias and residual: that of 16-bit activations; with 8-bit ones that of
  /// the output where it has 16 bits, else bf16.
  DataType scale_type() const {
    if (bits_of(a_type) == 16) return a_type;
    return bits_of(d_type) == 16 ? d_type : DataType::kBf16;
  }
  /// Of D: N, or N / 2 after swiglu.
  std::int64_t d_columns() const { return epilogue.activation == Activation::kSwiglu ? n / 2 : n; }
};

}  // namespace machete
