#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "bench/dequantize.h"
#include "testing/cuda_status.h"

namespace machete::bench {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocks = 4096;

__device__ float to_float(__half value) { return __half2float(value); }
__device__ float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ void store(__half* out, float value) { *out = __float2half_rn(value); }
__device__ void store(__nv_bfloat16* out, float value) { *out = __float2bfloat16_rn(value); }

template <class T>
__global__ void __launch_bounds__(kThreads) dequantize_all(const std::uint8_t* qweight,  // [N, ceil(K/2)]
                                                           const T* scales,              // [groups, N]
                                                           std::int64_t n, std::int64_t k, std::int64_t group_size,
                                                           T* dense) {  // [N, K]
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < n * k; i += step) {
    const std::int64_t row = i / k;
    const std::int64_t column = i % k;
    const std::uint8_t byte = qweight[row * ((k + 1) / 2) + column / 2];
    const int q = column % 2 == 0 ? byte & 15 : byte >> 4;
    store(dense + i, static_cast<float>(q - 8) * to_float(scales[column / group_size * n + row]));
  }
}

template <class T>
Status launch(const QuantizedWeight& weight, void* dense, cudaStream_t stream) {
  const std::int64_t group_size = weight.group_size < 0 ? weight.k : weight.group_size;
  dequantize_all<<<kBlocks, kThreads, 0, stream>>>(static_cast<const std::uint8_t*>(weight.qweight),
                                                   static_cast<const T*>(weight.scales), weight.n, weight.k, group_size,
                                                   static_cast<T*>(dense));
  return testing::launch_status("dequantise for cuBLAS");
}

}  // namespace

Status dequantize(const QuantizedWeight& weight, DataType type, void* dense, cudaStream_t stream) {
  if (weight.type != WeightType::kU4b8 || weight.scale_type != type) {
    return Status(StatusCode::kUnsupported, "bench dequantises u4b8 with scales of the activation type only");
  }
  if (type == DataType::kF16) return launch<__half>(weight, dense, stream);
  if (type == DataType::kBf16) return launch<__nv_bfloat16>(weight, dense, stream);
  return Status(StatusCode::kUnsupported, "bench dequantises to f16 and bf16 only");
}

}  // namespace machete::bench
