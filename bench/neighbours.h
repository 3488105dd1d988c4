#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "machete/status.h"
#include "machete/types.h"

namespace machete::bench {

/// Kernels of others, as a decoder layer has them between its linears. They know nothing of dependent launch.

/// out = in / sqrt(mean(in²)), token by token: [M, K] of bf16 or f16, a CTA a token.
Status launch_norm(DataType type, const void* in, void* out, std::int64_t m, std::int64_t k, cudaStream_t stream);

/// Reads `bytes` of `memory`, as attention reads keys and values, and copies in to out: [M, K] of bf16 or f16.
Status launch_attention(const void* memory, std::int64_t bytes, const void* in, void* out, std::int64_t m,
                        std::int64_t k, cudaStream_t stream);

}  // namespace machete::bench
