#pragma once

#include <cstdint>

#include "machete/types.h"

namespace machete {

/// D[M,N] = A[M,K] · W[N,K]ᵀ, W = scale · (q - zero): M tokens, N output features, K input features.
struct Problem {
  std::int64_t m = 0;                 // tokens; 0 is a valid problem that does nothing
  std::int64_t n = 0;                 // output features, >= 1
  std::int64_t k = 0;                 // input features, >= 1
  DataType a_type = DataType::kBf16;  // of the activations: bf16 or f16
  DataType d_type = DataType::kBf16;  // of the output: the type of the activations
  WeightType w_type = WeightType::kU4b8;
  std::int64_t group_size =
      128;               // elements of K sharing a scale: a multiple of 16, or -1 for one scale per output feature
  std::int64_t lda = 0;  // elements between rows of A, >= k; 0 means k
  std::int64_t ldd = 0;  // elements between rows of D, >= n; 0 means n
};

}  // namespace machete
