#include <cuda_runtime.h>

#include <algorithm>

#include "kernels/gemm/realign.h"

namespace machete::gemm {
namespace {

template <class Element>
__global__ void realign_kernel(const Element* a, std::int64_t lda, std::int64_t m, std::int64_t k,
                               const std::int32_t* permutation, Element* out) {
  for (std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < k;
       i += std::int64_t{gridDim.x} * blockDim.x) {
    const std::int64_t from = permutation == nullptr ? i : permutation[i];
    for (std::int64_t row = blockIdx.y; row < m; row += gridDim.y) {
      out[row * aligned_row(k, sizeof(Element)) + i] = a[row * lda + from];
    }
  }
}

template <class Element>
int realign_as(const void* a, std::int64_t lda, std::int64_t m, std::int64_t k, const std::int32_t* permutation,
               void* out, void* stream) {
  constexpr int kThreads = 256;
  constexpr std::int64_t kMostRows = 256;  // of blocks, that share a token's part of the permutation
  const dim3 blocks(static_cast<unsigned>((k + kThreads - 1) / kThreads),
                    static_cast<unsigned>(std::min(m, kMostRows)));
  realign_kernel<<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(static_cast<const Element*>(a), lda, m, k,
                                                                             permutation, static_cast<Element*>(out));
  return cudaGetLastError();
}

}  // namespace

int prepare_realign() {
  cudaFuncAttributes attributes = {};
  const cudaError_t error = cudaFuncGetAttributes(&attributes, realign_kernel<std::uint8_t>);
  return error == cudaSuccess ? cudaFuncGetAttributes(&attributes, realign_kernel<std::uint16_t>) : error;
}

int realign(const void* a, std::size_t bytes, std::int64_t lda, std::int64_t m, std::int64_t k,
            const std::int32_t* permutation, void* out, void* stream) {
  return (bytes == 1 ? realign_as<std::uint8_t> : realign_as<std::uint16_t>)(a, lda, m, k, permutation, out, stream);
}

}  // namespace machete::gemm
