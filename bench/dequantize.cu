#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "bench/dequantize.h"
#include "kernels/convert/coding.h"
#include "testing/cuda_status.h"

namespace machete::bench {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocks = 4096;

__device__ float to_float(__half value) { return __half2float(value); }
__device__ float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ void store(__half* out, float value) { *out = __float2half_rn(value); }
__device__ void store(__nv_bfloat16* out, float value) { *out = __float2bfloat16_rn(value); }

struct Weight {
  const std::uint8_t* qweight;      // [N, row_bytes]
  const void* scales;               // [groups, N] of the dense type
  const std::uint8_t* zero_points;  // [groups, N] or null
  const std::int32_t* g_idx;        // [K] or null
  std::int64_t n, k, group_size, row_bytes;
  int bits;
  float implied_zero;
  float values[256];  // of the codes
};

template <class T>
__global__ void __launch_bounds__(kThreads) dequantize_all(const __grid_constant__ Weight w, T* dense /* [N, K] */) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < w.n * w.k; i += step) {
    const std::int64_t row = i / w.k;
    const std::int64_t column = i % w.k;
    const std::uint8_t byte = w.qweight[row * w.row_bytes + column * w.bits / 8];
    const int q = w.bits == 8 ? byte : column % 2 == 0 ? byte & 15 : byte >> 4;
    const std::int64_t group = w.g_idx == nullptr ? column / w.group_size : w.g_idx[column];
    const std::int64_t at = group * w.n + row;
    const float zero = w.zero_points == nullptr ? w.implied_zero : static_cast<float>(w.zero_points[at]);
    store(dense + i, (w.values[q] - zero) * to_float(static_cast<const T*>(w.scales)[at]));
  }
}

template <class T>
Status launch(const QuantizedWeight& weight, void* dense, cudaStream_t stream) {
  const convert::Coding coding = convert::coding_of(weight.type);
  Weight w{};
  w.qweight = static_cast<const std::uint8_t*>(weight.qweight);
  w.scales = weight.scales;
  w.zero_points = static_cast<const std::uint8_t*>(weight.zero_points);
  w.g_idx = weight.g_idx;
  w.n = weight.n;
  w.k = weight.k;
  w.group_size = weight.group_size < 0 ? weight.k : weight.group_size;
  w.row_bytes = weight.row_bytes();
  w.bits = coding.bits;
  w.implied_zero = coding.implied_zero();
  for (int q = 0; q < coding.codes(); ++q) w.values[q] = coding.value(coding.counted(static_cast<std::uint8_t>(q)));
  dequantize_all<<<kBlocks, kThreads, 0, stream>>>(w, static_cast<T*>(dense));
  return testing::launch_status("dequantise for cuBLAS");
}

}  // namespace

Status dequantize(const QuantizedWeight& weight, DataType type, void* dense, cudaStream_t stream) {
  if (weight.scale_type != type || (weight.zero_points != nullptr && weight.zero_point_type != DataType::kU8)) {
    return Status(StatusCode::kUnsupported,
                  "bench dequantises scales of the activation type and integer zero points only");
  }
  if (type == DataType::kF16) return launch<__half>(weight, dense, stream);
  if (type == DataType::kBf16) return launch<__nv_bfloat16>(weight, dense, stream);
  return Status(StatusCode::kUnsupported, "bench dequantises to f16 and bf16 only");
}

}  // namespace machete::bench
