#pragma once

#include <cstdint>

#include "machete/epilogue.h"
#include "machete/types.h"

namespace machete {

/// D = epilogue(A[M,K] · W[N,K]ᵀ), W = scale · (q - zero): M tokens, N output features, K input features.
struct Problem {
  std::int64_t m = 0;                 // tokens; 0 is a valid problem that does nothing
  std::int64_t n = 0;                 // output features, >= 1
  std::int64_t k = 0;                 // input features, >= 1
  DataType a_type = DataType::kBf16;  // of the activations: bf16 or f16
  DataType d_type = DataType::kBf16;  // of the output: that of the activations; on the CPU also f32 or the other
  WeightType w_type = WeightType::kU4b8;
  std::int64_t group_size =
      128;               // elements of K sharing a scale: a multiple of 16, or -1 for one scale per output feature
  std::int64_t lda = 0;  // elements between rows of A, >= k; 0 means k
  std::int64_t ldd = 0;  // elements between rows of D, >= d_columns(); 0 means that
  // The weight may have g_idx: K in an order of its own, in which CUDA gathers the activations, into the workspace.
  bool act_order = false;
  Epilogue epilogue;
  std::int64_t ldc = 0;  // elements between rows of the epilogue's residual, >= d_columns(); 0 means that

  /// Of D: N, or N / 2 after swiglu.
  std::int64_t d_columns() const { return epilogue.activation == Activation::kSwiglu ? n / 2 : n; }
};

}  // namespace machete
