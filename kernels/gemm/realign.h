#pragma once

#include <cstddef>
#include <cstdint>

namespace machete::gemm {

/// TMA reads rows that start on 16 bytes. Activations whose rows do not, or whose k's meet weights in another order,
/// are copied once, into rows of this many elements of 1 or 2 bytes.
constexpr std::int64_t aligned_row(std::int64_t k, std::int64_t bytes) { return (k * bytes + 15) / 16 * 16 / bytes; }

/// Loads the kernel, so that its first launch may be captured. Returns a cudaError_t.
int prepare_realign();

/// Copies A[M,K] of elements of `bytes` to rows aligned_row(K) apart, its k's in the order of the permutation, or their
/// own where that is null. Returns a cudaError_t.
int realign(const void* a, std::size_t bytes, std::int64_t lda, std::int64_t m, std::int64_t k,
            const std::int32_t* permutation, void* out, void* stream);

}  // namespace machete::gemm
