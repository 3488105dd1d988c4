#pragma once

#include <cstddef>
#include <cstdint>

namespace machete::tokens {

/// TMA reads rows that start on 16 bytes. Activations whose rows do not, or whose k's meet weights in another order,
/// are copied once, into rows of this many elements of 1 or 2 bytes.
constexpr std::int64_t aligned_row(std::int64_t k, std::int64_t bytes) { return (k * bytes + 15) / 16 * 16 / bytes; }

struct Arrangement {
  const void* a;  // [M, K] of elements of `bytes`, 1 or 2, rows lda apart; 16-byte aligned, as are the others
  std::size_t bytes;
  std::int64_t lda, m, k;
  const std::int32_t* permutation;  // [K]: which k of A is where; null: its own
  void* out;                        // [M, K], rows aligned_row(K) apart
};

/// Loads the kernels, so that their first launch may be captured. Returns a cudaError_t.
int prepare_arrange();

/// With overlap, the kernel ahead may still run, and write A; the permutation is read before it ends. Returns a
/// cudaError_t.
int arrange(const Arrangement& what, bool overlap, void* stream);

}  // namespace machete::tokens
