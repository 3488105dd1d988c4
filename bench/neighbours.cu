#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "bench/neighbours.h"
#include "testing/cuda_status.h"

namespace machete::bench {
namespace {

constexpr int kThreads = 256;

template <class Element>
__global__ void __launch_bounds__(kThreads) norm_kernel(const Element* in, Element* out, std::int64_t k) {
  __shared__ float of_warps[kThreads / 32];
  const Element* row = in + blockIdx.x * k;
  float sum = 0;
  for (std::int64_t i = threadIdx.x; i < k; i += kThreads) {
    const auto x = static_cast<float>(row[i]);
    sum += x * x;
  }
  for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(~0u, sum, distance);
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = sum;
  __syncthreads();
  sum = 0;
  for (const float part : of_warps) sum += part;
  const float factor = rsqrtf(sum / static_cast<float>(k) + 1e-6f);
  for (std::int64_t i = threadIdx.x; i < k; i += kThreads) {
    out[blockIdx.x * k + i] = static_cast<Element>(static_cast<float>(row[i]) * factor);
  }
}

__global__ void __launch_bounds__(kThreads)
    attention_kernel(const uint4* memory, std::int64_t count, const std::uint16_t* in, std::uint16_t* out,
                     std::int64_t elements) {
  const std::int64_t threads = std::int64_t{gridDim.x} * kThreads;
  const std::int64_t first = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  std::uint32_t mixed = 0;
  for (std::int64_t i = first; i < count; i += threads) {
    const uint4 value = __ldcs(memory + i);
    mixed ^= value.x ^ value.y ^ value.z ^ value.w;
  }
  // Hardly ever true, but the compiler cannot know: it must keep the loads.
  const auto flip = static_cast<std::uint16_t>(mixed == 0x9E3779B9 ? 1 : 0);
  for (std::int64_t i = first; i < elements; i += threads) out[i] = in[i] ^ flip;
}

}  // namespace

Status launch_norm(DataType type, const void* in, void* out, std::int64_t m, std::int64_t k, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(m);
  if (type == DataType::kBf16) {
    norm_kernel<<<blocks, kThreads, 0, stream>>>(static_cast<const __nv_bfloat16*>(in),
                                                 static_cast<__nv_bfloat16*>(out), k);
  } else {
    norm_kernel<<<blocks, kThreads, 0, stream>>>(static_cast<const __half*>(in), static_cast<__half*>(out), k);
  }
  return testing::cuda_status(cudaGetLastError(), "launch a norm");
}

Status launch_attention(const void* memory, std::int64_t bytes, const void* in, void* out, std::int64_t m,
                        std::int64_t k, cudaStream_t stream) {
  constexpr unsigned kBlocks = 264;
  attention_kernel<<<kBlocks, kThreads, 0, stream>>>(static_cast<const uint4*>(memory), bytes / 16,
                                                     static_cast<const std::uint16_t*>(in),
                                                     static_cast<std::uint16_t*>(out), m * k);
  return testing::cuda_status(cudaGetLastError(), "launch an attention");
}

}  // namespace machete::bench
