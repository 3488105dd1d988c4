#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "machete/status.h"
#include "machete/types.h"

/// Test data made on the device. Element (row, column) depends on the seed and its position alone, never on strides.
/// All fills are asynchronous on `stream`.
namespace machete::testing {

enum class ActivationFill {
  kUniform,   // in [-1, 1], rounded to the type
  kNormal,    // mean 0, deviation 1, rounded to the type
  kIntegers,  // -2 ... 2
  kOutliers,  // normal, but one in 64 is 1000 times as large, one in 16 tiny, one in 16 subnormal (fp16: zero)
};
/// A [M, K] of f16, bf16, f32, s8 or e4m3, rows lda apart; what lies between the rows stays as it is.
Status fill_activations(DataType type, void* a, std::int64_t m, std::int64_t k, std::int64_t lda, ActivationFill fill,
                        std::uint64_t seed, cudaStream_t stream = nullptr);

/// Rows first_k, first_k + 1, ... of the unit matrix: a[i][first_k + i] = 1, else 0.
Status fill_identity(DataType type, void* a, std::int64_t m, std::int64_t k, std::int64_t lda, std::int64_t first_k,
                     cudaStream_t stream = nullptr);

/// qweight [N, row_bytes]: uniform codes but for NaN; of 4 bits and an odd K, in the unused last one too.
Status fill_qweight(WeightType type, void* qweight, std::int64_t n, std::int64_t k, std::uint64_t seed,
                    cudaStream_t stream = nullptr);

/// zero_points [groups, N] of a type with codes of so many bits: integers (u8), or of f16 or bf16, with fractions;
/// among the codes, or `wide`, up to twice their number below the first and beyond the last, as Q4_1 and HQQ have them.
Status fill_zero_points(DataType type, int bits, void* zero_points, std::int64_t groups, std::int64_t n,
                        std::uint64_t seed, cudaStream_t stream = nullptr, bool wide = false);

/// g_idx [K], K below 2^31: groups of that size, their k's mixed as if by chance.
Status fill_g_idx(void* g_idx, std::int64_t k, std::int64_t group_size, cudaStream_t stream = nullptr);

enum class ScaleFill {
  kRandom,       // uniform in about [0.004, 0.03], of 8 significant bits: exact in bf16 and in f16
  kPowersOfTwo,  // 1/2, 1 or 2
  kOne,
  kBlocks,  // like kRandom, the same of 128 output features
};
/// scales [groups, N] of f16, bf16, f32, e4m3 or e8m0; random ones of e4m3 span [1/4, 2], of e8m0 [2^-10, 2].
Status fill_scales(DataType type, void* scales, std::int64_t groups, std::int64_t n, ScaleFill fill, std::uint64_t seed,
                   cudaStream_t stream = nullptr);

}  // namespace machete::testing
