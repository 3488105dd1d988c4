#pragma once

#include <cuda_runtime_api.h>

#include "machete/status.h"
#include "machete/types.h"
#include "machete/weight.h"

namespace machete::bench {

/// The weight as cuBLAS wants it: [N, K] of f16 or bf16, each value rounded once. Everything on the current device.
Status dequantize(const QuantizedWeight& weight, DataType type, void* dense, cudaStream_t stream);

}  // namespace machete::bench
