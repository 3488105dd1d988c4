#include <cuda_runtime.h>

#include <algorithm>

#include "kernels/gemm/realign.h"

namespace machete::gemm {
namespace {

__global__ void realign_kernel(const std::uint16_t* a, std::int64_t lda, std::int64_t m, std::int64_t k,
                               std::uint16_t* out) {
  for (std::int64_t row = blockIdx.x; row < m; row += gridDim.x) {
    for (std::int64_t i = threadIdx.x; i < k; i += blockDim.x) out[row * aligned_row(k) + i] = a[row * lda + i];
  }
}

}  // namespace

int prepare_realign() {
  cudaFuncAttributes attributes = {};
  return cudaFuncGetAttributes(&attributes, realign_kernel);
}

int realign(const void* a, std::int64_t lda, std::int64_t m, std::int64_t k, void* out, void* stream) {
  const auto blocks = static_cast<unsigned>(std::min<std::int64_t>(m, 65535));
  realign_kernel<<<blocks, 256, 0, static_cast<cudaStream_t>(stream)>>>(static_cast<const std::uint16_t*>(a), lda, m, k,
                                                                        static_cast<std::uint16_t*>(out));
  return cudaGetLastError();
}

}  // namespace machete::gemm
