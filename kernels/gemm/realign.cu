#include <cuda_runtime.h>

#include <algorithm>

#include "kernels/gemm/realign.h"

namespace machete::gemm {
namespace {

__global__ void realign_kernel(const std::uint16_t* a, std::int64_t lda, std::int64_t m, std::int64_t k,
                               const std::int32_t* permutation, std::uint16_t* out) {
  for (std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < k;
       i += std::int64_t{gridDim.x} * blockDim.x) {
    const std::int64_t from = permutation == nullptr ? i : permutation[i];
    for (std::int64_t row = blockIdx.y; row < m; row += gridDim.y) {
      out[row * aligned_row(k) + i] = a[row * lda + from];
    }
  }
}

}  // namespace

int prepare_realign() {
  cudaFuncAttributes attributes = {};
  return cudaFuncGetAttributes(&attributes, realign_kernel);
}

int realign(const void* a, std::int64_t lda, std::int64_t m, std::int64_t k, const std::int32_t* permutation, void* out,
            void* stream) {
  constexpr int kThreads = 256;
  constexpr std::int64_t kMostRows = 256;  // of blocks, that share a token's part of the permutation
  const dim3 blocks(static_cast<unsigned>((k + kThreads - 1) / kThreads),
                    static_cast<unsigned>(std::min(m, kMostRows)));
  realign_kernel<<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      static_cast<const std::uint16_t*>(a), lda, m, k, permutation, static_cast<std::uint16_t*>(out));
  return cudaGetLastError();
}

}  // namespace machete::gemm
